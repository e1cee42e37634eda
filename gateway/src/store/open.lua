-- Reads a stored document (snapshot and the log after it), or creates it. Runs after common.lua.
--
-- In:  KEYS  meta, log, and outside Cluster mode fence, position
--      ARGV  prefix of the snapshot's chunk keys; to create: hash(0), then the chunks of the first snapshot
-- Out: {} if the document does not exist and ARGV does not create it; else {version, hash, snapshot version, snapshot
--      hash, number of chunks, first chunk or "", more, tail}. A document that exists is never created again: the
--      first caller's content stands.

local meta_key, log_key, prefix = KEYS[1], KEYS[2], ARGV[1]
local meta = meta_of(meta_key)

if not meta then
  local root = ARGV[2]
  if not root then return {} end
  local now = now_ms()
  if fenced(KEYS[3], now) then return FENCED end
  local chunks = #ARGV - 2
  for n = 1, chunks do
    redis.call('SET', prefix .. '0:' .. int(n - 1), ARGV[2 + n])
  end
  redis.call('HSET', meta_key, 'v', 0, 'hash', root, 'root', root, 'floor', 0, 'bytes', 0,
    'snapshot', '0 ' .. int(chunks) .. ' ' .. root, 'time', int(now), 'marks', '')
  if KEYS[4] then redis.call('INCR', KEYS[4]) end
  meta = meta_of(meta_key)
end

local first = ''
if meta.chunks > 0 then
  first = redis.call('GET', prefix .. int(meta.snapshot) .. ':0')
  if not first then return {err = 'DAMAGED the snapshot is missing'} end
end
local tail, more = tail_of(log_key, meta.snapshot)
if not tail or (#tail == 0 and meta.v > meta.snapshot) then return {err = 'DAMAGED the log does not reach back to the snapshot'} end
return {int(meta.v), meta.hash, int(meta.snapshot), meta.snapshot_hash, int(meta.chunks), first, more, tail}
