-- How far apart members call, and how far grants reach ahead (core/group_load.py).

local loads = {}

function loads.has_demand(member) return member.lent == 1 and member.flows > 0 end

function loads.load()
  local waiting = 0
  for _, member in ipairs(state.members) do
    if loads.has_demand(member) then waiting = waiting + 1 end
  end
  return min(MOST_LOAD, max(LEAST_LOAD, waiting))
end

function loads.spacing(load) return load * 21 * MS / LEAST_LOAD end

function loads.horizon()
  local most = LEAST_LOAD
  for _, member in ipairs(state.members) do
    if loads.has_demand(member) then most = max(most, member.load) end
  end
  return most * 25 * MS / LEAST_LOAD
end

-- The reply (core/group_reply.py).

local replies = {}

function replies.numbers(list)
  local out = {}
  for place, value in ipairs(list) do out[place] = number(value) end
  return "[" .. table.concat(out, ",") .. "]"
end

function replies.json_list(list) return "[" .. table.concat(list, ",") .. "]" end

function replies.quota(bucket, now)
  if not bucket then return "[-1,0,0,0]" end
  amounts.cap(bucket, now)
  return replies.numbers({bucket.burst, amounts.level(bucket, now), bucket.period, max(0, bucket.full_at - now)})
end

function replies.quotas(budgets, now)
  return replies.quota(budgets.requests, now) .. "," .. replies.quota(budgets.tokens, now)
end

function replies.leads(order)
  local classes, time = order.classes, order.time
  return replies.numbers({classes[1].tag - time, classes[2].tag - time, classes[3].tag - time})
end

function replies.groups_of(depths)
  local keys, groups = {}, {}
  for depth in pairs(depths) do keys[#keys + 1] = depth end
  table.sort(keys)
  for place, depth in ipairs(keys) do groups[place] = replies.numbers(depths[depth]) end
  return replies.json_list(groups)
end

function replies.lane_state(lane, now)
  local budgets, depths = lane.budgets, lane.depths
  return format(
    "[%s,%d,%s,%s,%s,%s,%s,%d,%s,[%s,%s,%s]]", json(lane.name), budgets.known,
    replies.quotas(budgets, now), number(max(0, budgets.paused_until - now)),
    number(amounts.spacing(budgets, now)), replies.numbers(lane.waiting), replies.numbers(lane.waiting_tokens),
    lane.short, replies.leads(lane.order), replies.groups_of(depths[1]), replies.groups_of(depths[2]), replies.groups_of(depths[3])
  )
end

function replies.total(list) return list[1] + list[2] + list[3] end

function replies.lane_states(member, demand, now)
  local own, body, others, states = {}, group.body_of(member), {}, {}
  for _, report in ipairs(demand) do own[report[1]] = true end
  for name in pairs(body.lane_slots) do own[name] = true end
  for name in pairs(body.floats) do own[name] = true end
  for _, lane in ipairs(state.lanes) do
    if not own[lane.name] and any(lane.waiting) then insert(others, lane) end
  end
  table.sort(others, function(one, two)
    if replies.total(one.waiting) ~= replies.total(two.waiting) then
      return replies.total(one.waiting) > replies.total(two.waiting)
    end
    return before(one.name, two.name)
  end)
  for _, name in ipairs(sorted_keys(own)) do insert(states, replies.lane_state(lane_of(name), now)) end
  for place = 1, min(OTHERS, #others) do insert(states, replies.lane_state(others[place], now)) end
  return states
end

function replies.client_states(demand, now)
  local own, count_own, names, states = {}, 0, {}, {}
  for _, report in ipairs(demand) do
    if not own[report[3]] then own[report[3]], count_own = true, count_own + 1 end
  end
  for name in pairs(state.busy_clients) do names[#names + 1] = name end
  table.sort(names, function(one, two)
    if own[one] ~= own[two] then return own[one] end
    local a, b = state.busy_clients[one], state.busy_clients[two]
    if a ~= b then return a > b end
    return before(one, two)
  end)
  for place = 1, min(count_own + OTHERS, #names) do
    local scope = store.client_of(names[place])
    states[place] = format(
      "[%s,%s,%s,%s,%s]", json(scope.name), replies.quotas(scope.budgets, now),
      replies.numbers(scope.waiting), replies.numbers(scope.waiting_tokens), replies.leads(scope.order)
    )
  end
  return states
end

function replies.shared_flows(member, demand)
  local reported, flows = {}, {}
  for _, report in ipairs(demand) do
    reported[store.key_of(report[1], report[2] + 1, report[3])] = report
  end
  for _, key in ipairs(sorted_keys(reported, key_before)) do
    local flow, items, tokens, others = group.find_flow(key), 0, 0, false
    for name, demanded in pairs(flow and flow.demands or {}) do
      if name ~= member.name then
        others = true
        items, tokens = items + demands.count(demanded), tokens + demands.tokens(demanded)
      end
    end
    if others then
      local report = reported[key]
      insert(flows, format(
        "[%s,%d,%s,%s,%s]", json(report[1]), report[2], json(report[3]),
        number(items), number(tokens)
      ))
    end
  end
  return flows
end

function replies.float_states(member)
  local floats, states = group.body_of(member).floats, {}
  for place, name in ipairs(sorted_keys(floats)) do
    local budgets = lane_of(name).budgets
    states[place] = format(
      "[%s,%s,%s,%s,%s]", json(name), number(floats[name][1]), number(floats[name][2]),
      number(budgets.total_requests), number(budgets.total_tokens)
    )
  end
  return states
end

function replies.share_granted(member)
  local granted, equal = 0, 1 / #state.members
  for _, each in ipairs(state.members) do granted = granted + each.granted end
  if granted <= 0 then return equal end
  return (1 - EQUAL_PART) * member.granted / granted + EQUAL_PART * equal
end

function replies.next_in(now, horizon)
  if state.waiting > 0 and now + HORIZON < state.begins_at then
    return state.begins_at - HORIZON - now
  end
  return state.next_at == inf and -1 or max(0, state.next_at - horizon - now)
end

function replies.reply(member, grants, next_in, refused, demand, now)
  local own = state.budgets
  local floats = replies.float_states(member)
  return format(
    '{"grants":%s,"floats":%s,"next":%s,"spacing":%s,"waiting":%s,"members":%d,"share":%s,"limits":%s,'
      .. '"levels":[%s,%s],"waiting_by_class":%s,"waiting_tokens":%s,"clients_version":%s,'
      .. '"refused":%s,"quotas":[%s],"leads":%s,"lanes":%s,"clients":%s,"flows":%s}',
    replies.json_list(grants), replies.json_list(floats),
    number(next_in), number(loads.spacing(member.load)), number(state.waiting),
    #state.members, number(replies.share_granted(member)), replies.numbers(state.limits),
    own.requests and number(max(0, amounts.level(own.requests, now))) or "-1",
    own.tokens and number(max(0, amounts.level(own.tokens, now))) or "-1",
    replies.numbers(state.waiting_by_class), number(state.waiting_tokens), number(state.clients_version),
    replies.json_list(refused), replies.quotas(own, now), replies.leads(state.order),
    replies.json_list(replies.lane_states(member, demand, now)), replies.json_list(replies.client_states(demand, now)),
    replies.json_list(replies.shared_flows(member, demand))
  )
end

