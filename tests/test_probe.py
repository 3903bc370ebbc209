from tests.support.http import *
async def test_probe(gate, upstream):
    g = await gate()
    c = await g.send(chat())
    call = await upstream.call()
    print(call.head.raw)
    await call.answer(answer(b"hello"))
    a = await c.answer()
    print(a.head.raw, a.body, await g.settled())
