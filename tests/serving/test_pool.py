"""Batches, failures and deaths, with real worker processes and without HTTP."""

import asyncio
import json
import os
import signal

import pytest

from farabio_like.serving import RequestError, ServeSettings
from farabio_like.serving.pool import Pool, ServiceError

from .predictors import DiesInSetup, Double, Gate, NoSetup, Sizes, Words

pytestmark = pytest.mark.timeout(120)


def pooled(make, test, **settings):
    """Run an asynchronous test with a pool that is ready."""

    async def run():
        pool = Pool(make, ServeSettings(**{"timeout": 0.5, **settings}), restart_seconds=0.01)
        pool.start()
        try:
            await until(lambda: pool.ready or pool.failure.done())
            return await test(pool)
        finally:
            await pool.close()

    return asyncio.run(run())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


async def asked(pool, *values):
    """Return what one request with these items is answered with: values, or the status and text of an error."""
    results = await pool.submit([(value, False) for value in values]).done
    if results[0][0] == "error":
        return results[0][1], json.loads(results[0][2])["error"]
    return [json.loads(body) for _, _, body in results]


def test_requests_share_a_batch_and_get_their_own_answers():
    async def test(pool):
        return await asyncio.gather(*(asked(pool, value) for value in range(8)))

    assert pooled(Double, test) == [[2.0 * value] for value in range(8)]


def test_a_batch_is_full_or_waits_no_longer_than_the_timeout():
    async def test(pool):
        answers = await asyncio.gather(*(asked(pool, 0) for _ in range(11)))
        return [answer[0]["batch"] for answer in answers]

    assert pooled(Sizes, test, max_batch=8, timeout=0.2) == [8] * 8 + [3] * 3


def test_items_of_one_request_count_each_and_come_back_in_order():
    async def test(pool):
        sizes = await asked(pool, *range(20))
        return [answer["batch"] for answer in sizes], pool.counts["items"]

    assert pooled(Sizes, test, timeout=0) == ([8] * 16 + [4] * 4, 20)

    async def values(pool):
        return await asyncio.gather(asked(pool, *range(20)), asked(pool, *range(100, 103)))

    assert pooled(Double, values, workers=2) == [[2.0 * n for n in range(20)], [200.0, 202.0, 204.0]]


def test_only_the_bad_request_of_a_batch_gets_an_error():
    async def test(pool):
        answers = await asyncio.gather(*(asked(pool, value) for value in [1, "word", 2, "exit", 3]))
        return answers, await asked(pool, 4)

    answers, after = pooled(Double, test, max_batch=5)
    assert [answers[0], answers[2], answers[4], after] == [[2.0], [4.0], [6.0], [8.0]]
    assert answers[1] == answers[3] == (500, "the model failed on this request; the log of the server says why")


def test_own_statuses_and_words_reach_one_client_each():
    values = ["a", "decode", "predict", "encode", "b", "short", "nan", "object"]

    async def test(pool):
        return await asyncio.gather(*(asked(pool, value) for value in values))

    answers = dict(zip(values, pooled(Words, test, max_batch=8), strict=True))
    assert answers["a"] == ["a"] and answers["b"] == ["b"]
    assert answers["decode"] == (418, "decode says no")
    assert answers["predict"] == (409, "predict says no")
    assert answers["encode"] == (451, "encode says no")
    assert answers["short"][0] == answers["object"][0] == 500
    assert answers["nan"] == (500, "the answer holds NaN or infinity, which JSON has no word for")


def test_a_request_that_kills_its_worker_is_refused_and_the_others_are_answered():
    async def test(pool):
        answers = await asyncio.gather(*(asked(pool, value) for value in [1, "kill", 2]))
        return answers, await asked(pool, 3), pool.counts["restarts"]

    answers, after, restarts = pooled(Double, test, max_batch=3)
    assert answers == [[2.0], (503, "a worker ended while it worked on this request"), [4.0]]
    assert after == [6.0] and restarts == 2  # with the others, and alone


def test_a_worker_that_is_killed_is_replaced_idle_or_at_work(tmp_path):
    async def test(pool):
        first = pool.workers[0].process.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: pool.counts["restarts"] == 1 and pool.workers[0].ready)
        gate = str(tmp_path / "gate")
        job = asyncio.ensure_future(asked(pool, gate))
        await until(lambda: os.path.exists(gate + ".begun"))
        os.kill(pool.workers[0].process.pid, signal.SIGKILL)
        open(gate, "w").close()
        return await job

    assert pooled(Gate, test, timeout=0) == [1]


def test_past_the_time_limit_the_worker_ends_and_the_request_is_refused():
    async def test(pool):
        slow, quick = await asyncio.gather(asked(pool, "sleep"), asked(pool, 1))
        return slow, quick, await asked(pool, 2)

    slow, quick, after = pooled(Double, test, time_limit=1.0, max_batch=2)
    assert slow == (503, "the request took longer than 1 seconds")
    assert quick == [2.0] and after == [4.0]


def test_abandoned_requests_are_dropped_before_they_are_worked_on(tmp_path):
    async def test(pool):
        gate = str(tmp_path / "gate")
        first = asyncio.ensure_future(asked(pool, gate))
        await until(lambda: os.path.exists(gate + ".begun"))
        jobs = [pool.submit([(0, False)]) for _ in range(500)]
        for job in jobs:
            pool.abandon(job)
        assert pool.waiting.count == 0
        last = asyncio.ensure_future(asked(pool, 0))
        open(gate, "w").close()
        await asyncio.gather(first, last)
        return pool.counts["items"], pool.counts["abandoned"]

    assert pooled(Gate, test, timeout=0) == (2, 500)


def test_more_than_may_wait_is_refused(tmp_path):
    async def test(pool):
        gate = str(tmp_path / "gate")
        first = asyncio.ensure_future(asked(pool, gate))
        await until(lambda: os.path.exists(gate + ".begun"))
        jobs = [pool.submit([(0, False)]) for _ in range(3)]
        with pytest.raises(RequestError) as refused:
            pool.submit([(0, False)])
        assert refused.value.status == 429
        with pytest.raises(RequestError) as refused:
            pool.submit([(0, False)] * 4)
        assert refused.value.status == 413
        open(gate, "w").close()
        await asyncio.gather(first, *(job.done for job in jobs))

    pooled(Gate, test, timeout=0, max_waiting=3)


def test_a_setup_that_raises_and_one_that_dies_end_the_service():
    async def failure(make):
        pool = Pool(make, ServeSettings(), restart_seconds=0.001)
        pool.start()
        try:
            await pool.failure
        finally:
            await pool.close()

    with pytest.raises(ServiceError, match="cannot be set up: FileNotFoundError"):
        asyncio.run(failure(NoSetup))
    with pytest.raises(ServiceError, match="has died 5 times in a row"):
        asyncio.run(failure(DiesInSetup))


def test_requests_under_way_are_refused_when_the_pool_closes(tmp_path):
    async def test():
        pool = Pool(Gate, ServeSettings(timeout=0))
        pool.start()
        await until(lambda: pool.ready)
        gate = str(tmp_path / "gate")
        job = asyncio.ensure_future(asked(pool, gate))
        waits = asyncio.ensure_future(asked(pool, 0))
        await until(lambda: os.path.exists(gate + ".begun"))
        await pool.close(0.0)
        return await job, await waits

    at_work, waiting = asyncio.run(test())
    assert at_work[0] == waiting[0] == 503
