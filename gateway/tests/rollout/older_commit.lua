-- What pods of an earlier version call to append; these lines never change. See rollout.rs.
-- What all scripts of the store share; it stands before each of them. Nothing here writes.
--
-- A document's keys lie in one slot: `:meta` hash, `:log` stream (id `<version>-0`, fields e = entry, h = hash after
-- it), `:clients` hash, `:snapshot:<version>:<n>` chunks. Fields of `:meta`:
--   v, hash    the head
--   root       hash(0)
--   floor      the lowest version an entry may be based on; bytes: size of the entries above it
--   snapshot   "<version> <chunks> <hash>"; no chunks = an empty document
--   time       of the last commit, Unix ms; marks: "<ms>:<version>,…": that version was the head at that time
--   numbered   rows of clients that gateways number; scan: where the removal of old rows goes on
-- A row of `:clients` is "<last seq> <its version> <Unix s> <owner>"; numbered ones have a name that begins with "~".

-- Bounds of what one call returns: a longer tail keeps the server from everybody else.
local TAIL_ENTRIES_MAX = 512
local TAIL_BYTES_MAX = 262144
local TAIL_PAGE = 16

local function int(number)
  return string.format('%.0f', number)
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The dead-man's switch of a primary that may have been replaced. In Cluster mode there is no such key.
local function fenced(fence_key, now)
  if not fence_key then return false end
  local limit = redis.call('HGET', fence_key, 'until')
  return limit and tonumber(limit) < now
end

local FENCED = {err = 'FENCED this server may no longer be the primary'}

local function meta_of(key)
  local values = redis.call('HMGET', key, 'v', 'hash', 'root', 'floor', 'bytes', 'snapshot', 'time', 'marks', 'numbered', 'scan')
  if not values[1] then return nil end
  local version, chunks, hash = string.match(values[6], '^(%d+) (%d+) (%x+)$')
  return {
    v = tonumber(values[1]), hash = values[2], root = values[3], floor = tonumber(values[4]), bytes = tonumber(values[5]),
    snapshot = tonumber(version), chunks = tonumber(chunks), snapshot_hash = hash,
    time = tonumber(values[7]), marks = values[8] or '', numbered = tonumber(values[9] or '0'), scan = values[10] or '0',
  }
end

-- The hash of a version, or nil where the log does not have it any more (or not yet).
local function hash_at(meta, log_key, version)
  if version == meta.v then return meta.hash end
  if version == meta.snapshot then return meta.snapshot_hash end
  local id = int(math.max(version, 1)) .. '-0'
  local found = redis.call('XRANGE', log_key, id, id)[1]
  if version == 0 then return found and meta.root end
  return found and found[2][4]
end

-- The log after a version as {entry, hash, entry, hash, …}, and whether there is more (1 or 0). Nil where the log no
-- longer begins there.
local function tail_of(log_key, after)
  local out, count, bytes, last = {}, 0, 0, after
  while true do
    local page = redis.call('XRANGE', log_key, '(' .. int(last) .. '-0', '+', 'COUNT', TAIL_PAGE)
    for _, item in ipairs(page) do
      local version = tonumber(string.match(item[1], '^%d+'))
      if version ~= last + 1 then return nil end
      local entry = item[2][2]
      if count == TAIL_ENTRIES_MAX or (count > 0 and bytes + #entry > TAIL_BYTES_MAX) then return out, 1 end
      out[2 * count + 1], out[2 * count + 2] = entry, item[2][4]
      count, bytes, last = count + 1, bytes + #entry, version
    end
    if #page < TAIL_PAGE then return out, 0 end
  end
end
-- Appends a batch of entries to a document's log: the sequencer. Runs after common.lua.
--
-- In:  KEYS  meta, log, clients, and outside Cluster mode fence, position
--      ARGV  channel, head version, head hash, the pod's floor (below which it can carry no entry any more), number of
--            entries, then for each: identity, seq, "1" if a gateway numbers it, owner, base, entry
-- Out: {forked, more, verdicts, tail}. Forked (1): the head is no point of this log, nothing was done. A verdict is a
--      letter and a number: o = appended as, d = was there already as, g = a number is missing after, b = base below
--      the window, f = the table of clients is full. Tail: what the log has after the head, the batch included.
--      Or the errors FENCED, BOUNDS (nothing was done).

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
-- A numbered row is needed while a call's fate is unknown, not longer; checked only when there are too many.
local NUMBERED_LIFE_S = 600
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

local function make_room_among_numbered()
  local step = redis.call('HSCAN', clients_key, meta.scan, 'MATCH', '~*', 'COUNT', NUMBERED_MAX)
  meta.scan = step[1]
  for i = 1, #step[2], 2 do
    local at = tonumber(string.match(step[2][i + 1], '^%d+ %d+ (%d+) '))
    if at < now / 1000 - NUMBERED_LIFE_S then
      redis.call('HDEL', clients_key, step[2][i])
      meta.numbered = meta.numbered - 1
    end
  end
end

local function has_room(numbered)
  if numbered and meta.numbered >= NUMBERED_MAX then make_room_among_numbered() end
  if numbered and meta.numbered >= NUMBERED_MAX then return false end
  return redis.call('HLEN', clients_key) < CLIENTS_MAX
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

local before, floor_before = meta.v, meta.floor
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
    redis.call(publish, channel, 'V' .. int(meta.v))
  end
elseif meta.floor > floor_before then
  redis.call('HSET', meta_key, 'floor', int(meta.floor), 'bytes', int(meta.bytes))
end

local tail, more = tail_of(log_key, head)
if not tail then return {1, 0, {}, {}} end
return {0, more, verdicts, tail}
