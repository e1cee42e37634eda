-- Compare-and-set, the peer of the commit script: appends one entry if nothing came in between, else says what did.
-- In: KEYS log; ARGV base version, entry, channel. Out: {1, version} or {0, entries after the base}.
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local version = newest and tonumber(string.match(newest[1], '^%d+')) or 0
local base = tonumber(ARGV[1])
if version ~= base then return {0, redis.call('XRANGE', KEYS[1], '(' .. base .. '-0', '+')} end
redis.call('XADD', KEYS[1], (version + 1) .. '-0', 'e', ARGV[2])
redis.call('SPUBLISH', ARGV[3], ARGV[2])
return {1, version + 1}
