-- Removes presence rows of pods that are dead, as long as they are what was read: a pod that turns out to live writes
-- its rows anew, with another value, and those stay.
-- In: the presence hash; field and value of each row, in turn. Out: how many were removed.
local removed = 0
for index = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[index]) == ARGV[index + 1] then
    removed = removed + redis.call('HDEL', KEYS[1], ARGV[index])
  end
end
return removed
