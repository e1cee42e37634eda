-- Finds where a pod's history and the stored one part. Runs after common.lua.
--
-- In:  KEYS  meta, log
--      ARGV  version and hash of each point, the newest first
-- Out: which of them (from 1) is the first that is in this history, 0 for none

local POINTS_MAX = 600

if #ARGV > 2 * POINTS_MAX then return {err = 'BOUNDS at most ' .. POINTS_MAX .. ' points'} end
local meta = meta_of(KEYS[1])
if not meta then return 0 end
for i = 1, #ARGV, 2 do
  local version = tonumber(ARGV[i])
  if version <= meta.v and hash_at(meta, KEYS[2], version) == ARGV[i + 1] then return (i + 1) / 2 end
end
return 0
