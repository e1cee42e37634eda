-- Appends a batch of entries to a document's log: the sequencer. Runs after common.lua.
--
-- In:  KEYS  meta, log, clients, and outside Cluster mode fence, position
--      ARGV  channel, head version, head hash, the pod's floor (below which it can carry no entry any more), number of
--            entries, then for each: identity, seq, "1" if a gateway numbers it, owner, base, entry. A base beyond the
--            head is another entry of this batch
-- Out: {forked, more, verdicts, tail}. Forked (1): the head is no point of this log, nothing was done. A verdict is a
--      letter and a number: o = appended as, d = was there already as, g = a number is missing after, b = base below
--      the window (or beyond the head, where something else came), f = the table of clients is full. Tail: what the
--      log has after the head, the batch included. Or the errors FENCED, BOUNDS (nothing was done).

-- A longer batch keeps the server from everybody else.
local BATCH_ENTRIES_MAX = 256
-- The same in bytes; a single entry may be larger.
local BATCH_BYTES_MAX = 262144
-- The window: what entries may be based on. The last entry always belongs to it.
local WINDOW_ENTRIES_MAX = 512
local WINDOW_BYTES_MAX = 1048576
-- A publish beyond this is only a version: every pod with the document gets it, most of them have a faster way.
local PUBLISH_BYTES_MAX = 32768
-- Rows of a document; about 100 bytes each.
local CLIENTS_MAX = 20000
local NUMBERED_MAX = 1000
-- How long a client's last number is remembered, as in snapshot.lua; it is looked at only where there is no room.
local ROW_LIFE_S = 7 * 24 * 3600
-- A numbered row is needed while a call's fate is unknown, not longer.
local NUMBERED_LIFE_S = 600
-- Rows that one call looks at to make room.
local ROWS_PER_CALL = 1000
-- Trimming keeps the last ten minutes; marks this far apart tell which version is that old.
local MARK_EVERY_MS = 60000
local KEEP_MS = 600000

local meta_key, log_key, clients_key = KEYS[1], KEYS[2], KEYS[3]
local channel, head, head_hash, pod_floor, count = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

if count > BATCH_ENTRIES_MAX then return {err = 'BOUNDS a batch has at most ' .. BATCH_ENTRIES_MAX .. ' entries'} end
local batch_bytes = 0
for i = 1, count do batch_bytes = batch_bytes + #ARGV[5 + i * 6] end
if count > 1 and batch_bytes > BATCH_BYTES_MAX then
  return {err = 'BOUNDS a batch has at most ' .. BATCH_BYTES_MAX .. ' bytes'}
end
local now = now_ms()
if fenced(KEYS[4], now) then return FENCED end
local meta = meta_of(meta_key)
if not meta or head > meta.v or hash_at(meta, log_key, head) ~= head_hash then return {1, 0, {}, {}} end

-- Who finds no room comes back, and the next call looks on from there.
local has_looked = false
local function make_room()
  if has_looked then return end
  has_looked = true
  local step = redis.call('HSCAN', clients_key, meta.scan, 'COUNT', ROWS_PER_CALL)
  meta.scan = step[1]
  for i = 1, #step[2], 2 do
    local numbered = string.sub(step[2][i], 1, 1) == '~'
    local at = tonumber(string.match(step[2][i + 1], '^%d+ %d+ (%d+) '))
    if at < now / 1000 - (numbered and NUMBERED_LIFE_S or ROW_LIFE_S) then
      redis.call('HDEL', clients_key, step[2][i])
      if numbered then meta.numbered = meta.numbered - 1 end
    end
  end
end

local function is_full(numbered)
  return (numbered and meta.numbered >= NUMBERED_MAX) or redis.call('HLEN', clients_key) >= CLIENTS_MAX
end

local function has_room(numbered)
  if is_full(numbered) then make_room() end
  return not is_full(numbered)
end

local function raise_floor()
  meta.floor = meta.floor + 1
  local id = int(meta.floor) .. '-0'
  local left = redis.call('XRANGE', log_key, id, id)[1]
  meta.bytes = meta.bytes - (left and #left[2][2] or 0)
end

local function append(entry)
  meta.v = meta.v + 1
  meta.hash = string.sub(redis.sha1hex(meta.hash .. entry), 1, 11)
  redis.call('XADD', log_key, int(meta.v) .. '-0', 'e', entry, 'h', meta.hash)
  meta.bytes = meta.bytes + #entry
  while meta.v - meta.floor > WINDOW_ENTRIES_MAX or (meta.bytes > WINDOW_BYTES_MAX and meta.v - meta.floor > 1) do
    raise_floor()
  end
end

-- In Cluster mode a document's channel stays with its slot.
local publish = KEYS[5] and 'PUBLISH' or 'SPUBLISH'
local published, published_bytes, first = {}, 0, meta.v + 1
local before, floor_before = meta.v, meta.floor

local function commit(identity, seq, numbered, owner, base, entry)
  local row = redis.call('HGET', clients_key, identity)
  local last, version, row_owner = 0, 0, owner
  if row then
    last, version, row_owner = string.match(row, '^(%d+) (%d+) %d+ (.*)$')
    last = tonumber(last)
  end
  -- Another user's client: the join that follows says so.
  if row_owner ~= owner then return 'g' .. int(last) end
  if seq <= last then return 'd' .. version end
  -- Made on those before it in the batch: only where all of them, and nothing else, came after the head. What they would
  -- have been missing of each other is no gap.
  if base > head and (before > head or base ~= meta.v) then return 'b0' end
  if seq > last + 1 then return 'g' .. int(last) end
  if base < meta.floor then return 'b0' end
  if not row then
    if not has_room(numbered) then return 'f0' end
    if numbered then meta.numbered = meta.numbered + 1 end
  end
  append(entry)
  redis.call('HSET', clients_key, identity, int(seq) .. ' ' .. int(meta.v) .. ' ' .. int(math.floor(now / 1000)) .. ' ' .. owner)
  published[#published + 1] = #entry .. ' ' .. meta.hash .. '\n' .. entry
  published_bytes = published_bytes + #entry
  return 'o' .. int(meta.v)
end

-- No pod may be asked to carry an entry further back than it can: the floor is that of the most forgetful.
while meta.floor < math.min(pod_floor, meta.v - 1) do raise_floor() end
local verdicts = {}
for i = 1, count do
  local at = 5 + (i - 1) * 6
  local numbered = ARGV[at + 3] == '1'
  verdicts[i] = commit(ARGV[at + 1], tonumber(ARGV[at + 2]), numbered, ARGV[at + 4], tonumber(ARGV[at + 5]), ARGV[at + 6])
end

if meta.v > before then
  local newest = tonumber(string.match(meta.marks, '(%d+):%d+$') or '0')
  if now - newest >= MARK_EVERY_MS then
    -- What was the head until now was it since the last commit.
    local kept = {}
    for mark, time in string.gmatch(meta.marks, '((%d+):%d+)') do
      -- Of the marks that are old enough the newest is the one that counts.
      if tonumber(time) <= now - KEEP_MS then kept = {} end
      kept[#kept + 1] = mark
    end
    kept[#kept + 1] = int(meta.time) .. ':' .. int(before)
    meta.marks = table.concat(kept, ',')
  end
  redis.call('HSET', meta_key, 'v', int(meta.v), 'hash', meta.hash, 'floor', int(meta.floor), 'bytes', int(meta.bytes),
    'time', int(now), 'marks', meta.marks, 'numbered', int(meta.numbered), 'scan', meta.scan)
  if KEYS[5] then redis.call('INCR', KEYS[5]) end
  if published_bytes <= PUBLISH_BYTES_MAX then
    redis.call(publish, channel, 'E' .. int(first) .. ' ' .. int(now) .. '\n' .. table.concat(published))
  else
    redis.call(publish, channel, 'T' .. int(meta.v) .. ' ' .. int(now))
    -- For pods that do not know the former.
    redis.call(publish, channel, 'V' .. int(meta.v))
  end
elseif meta.floor > floor_before or has_looked then
  redis.call('HSET', meta_key, 'floor', int(meta.floor), 'bytes', int(meta.bytes),
    'numbered', int(meta.numbered), 'scan', meta.scan)
end

local tail, more = tail_of(log_key, head)
if not tail then return {1, 0, {}, {}} end
return {0, more, verdicts, tail}
