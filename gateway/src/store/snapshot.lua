-- Stores one chunk of a snapshot; the last one makes it the document's snapshot and lets go of what it replaces.
-- Runs after common.lua.
--
-- In:  KEYS  meta, log, clients, and outside Cluster mode fence, position
--      ARGV  prefix of the chunk keys, version, hash, n, number of chunks, tag, chunk. A stored chunk begins with the
--            tag (16 bytes), which tells the chunks of one save from those of another.
-- Out: "stored" (a chunk that is not the last), "saved", "stale" (a newer or equal snapshot is there), "forked" (the
--      point is not in this log), "mixed" (somebody else saves the same version: nothing changed). Or the error FENCED.

-- A save that was given up leaves its chunks for this long.
local UNFINISHED_LIFE_S = 600
-- How long a client's last number is remembered, and those of clients that gateways number.
local ROW_LIFE_S = 7 * 24 * 3600
local NUMBERED_ROW_LIFE_S = 3600
-- Rows looked at per save; the next save goes on where this one stopped.
local ROWS_PER_SAVE = 1000
-- The log keeps what is younger.
local KEEP_MS = 600000

local meta_key, log_key, clients_key = KEYS[1], KEYS[2], KEYS[3]
local prefix, version, hash, n, chunks, tag = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]

local now = now_ms()
if fenced(KEYS[4], now) then return FENCED end
local meta = meta_of(meta_key)
if not meta or version > meta.v then return 'forked' end
if version <= meta.snapshot then return 'stale' end
if hash_at(meta, log_key, version) ~= hash then return 'forked' end

local function chunk_key(of_version, number)
  return prefix .. int(of_version) .. ':' .. int(number)
end

redis.call('SET', chunk_key(version, n), tag .. ARGV[7], 'EX', UNFINISHED_LIFE_S)
if n + 1 < chunks then return 'stored' end
for number = 0, chunks - 1 do
  if redis.call('GETRANGE', chunk_key(version, number), 0, 15) ~= tag then return 'mixed' end
end
for number = 0, chunks - 1 do
  redis.call('PERSIST', chunk_key(version, number))
end
for number = 0, meta.chunks - 1 do
  redis.call('UNLINK', chunk_key(meta.snapshot, number))
end

-- What is older than both the window and the snapshot goes, but not what is young. The entry *at* that version stays:
-- its hash proves a pod's head.
local keep = math.min(meta.floor, version)
if meta.time > now - KEEP_MS then
  local old = 0
  for time, head in string.gmatch(meta.marks, '(%d+):(%d+)') do
    if tonumber(time) <= now - KEEP_MS then old = tonumber(head) end
  end
  keep = math.min(keep, old)
end
redis.call('XTRIM', log_key, 'MINID', int(keep) .. '-0')

local step = redis.call('HSCAN', clients_key, meta.scan, 'COUNT', ROWS_PER_SAVE)
for i = 1, #step[2], 2 do
  local numbered = string.sub(step[2][i], 1, 1) == '~'
  local at = tonumber(string.match(step[2][i + 1], '^%d+ %d+ (%d+) '))
  if at < now / 1000 - (numbered and NUMBERED_ROW_LIFE_S or ROW_LIFE_S) then
    redis.call('HDEL', clients_key, step[2][i])
    if numbered then meta.numbered = meta.numbered - 1 end
  end
end

redis.call('HSET', meta_key, 'snapshot', int(version) .. ' ' .. int(chunks) .. ' ' .. hash,
  'scan', step[1], 'numbered', int(meta.numbered))
if KEYS[5] then redis.call('INCR', KEYS[5]) end
return 'saved'
