-- Adds a batch of totals to the usage record of a group, once.
--
-- KEYS[1]   the number of the member's last batch
-- KEYS[2..] a hash for each day: names of client and model as a JSON list -> amounts with spaces
-- ARGV[1]   the number of this batch
-- ARGV[2]   how long the number is kept, in seconds
-- ARGV[3]   how long a day is kept, in seconds
-- ARGV[4]   for each day a list of pairs, names and amounts, as JSON
--
-- Amounts are whole numbers below 2^53, so doubles add them up exactly. Returns 1, or 0 if the
-- batch has been added already.

local number = tonumber(ARGV[1])
if tonumber(redis.call('GET', KEYS[1]) or 0) >= number then return 0 end

local function sum(kept, added)
  -- A gate of another version may have kept fewer amounts, or more.
  local sums = {}
  for amount in string.gmatch(kept, '%d+') do sums[#sums + 1] = tonumber(amount) end
  for place, amount in ipairs(added) do sums[place] = (sums[place] or 0) + amount end
  for place, amount in ipairs(sums) do sums[place] = string.format('%.0f', amount) end
  return table.concat(sums, ' ')
end

for day, totals in ipairs(cjson.decode(ARGV[4])) do
  local key = KEYS[1 + day]
  for _, each in ipairs(totals) do
    local names, amounts = each[1], each[2]
    redis.call('HSET', key, names, sum(redis.call('HGET', key, names) or '', amounts))
  end
  redis.call('EXPIRE', key, ARGV[3])
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
