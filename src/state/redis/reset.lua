-- Forgets a state; its number stays.
-- KEYS: state. ARGV: 1 '1': with all contexts of the application, 2 channel, 3 message
if ARGV[1] == '1' then redis.call('HINCRBY', KEYS[1], 'r', 1) end
redis.call('HDEL', KEYS[1], 'c', 'd')
redis.pcall('PUBLISH', ARGV[2], ARGV[3])
return 1
