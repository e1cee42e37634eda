-- Reads the log after a point, and rows of clients. Runs after common.lua.
--
-- In:  KEYS  meta, log, clients
--      ARGV  version and hash of the point, then names of clients
-- Out: {forked, more, tail, rows}. Forked (1): the point is not in this log (any more). A row is "" where there is none.

local meta = meta_of(KEYS[1])
local after = tonumber(ARGV[1])
local rows = {}
for i = 3, #ARGV do
  rows[i - 2] = redis.call('HGET', KEYS[3], ARGV[i]) or ''
end
if not meta or after > meta.v or hash_at(meta, KEYS[2], after) ~= ARGV[2] then return {1, 0, {}, rows} end
local tail, more = tail_of(KEYS[2], after)
if not tail or (#tail == 0 and meta.v > after) then return {1, 0, {}, rows} end
return {0, more, tail, rows}
