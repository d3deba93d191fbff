"""Writes results of runs that a test can't wait for, as `--json` has them: a chaos run, and storms
that say little.

usage: results.py FOLDER
"""

import json
import math
import pathlib
import sys

MACHINE = {
    "cores": 2,
    "cpu": "A CPU with a long name, 2.0 GHz & <more>",
    "architecture": "x86_64",
    "memory_bytes": 24 << 30,
    "kernel": "Linux 6.1.0",
    "system": "Debian GNU/Linux 12 (bookworm)",
    "program": "storm-loadgen 0.1.0",
}

KINDS = ["kill_api", "kill_worker", "kill_redis", "redis_restarted_empty", "freeze_worker", "flushall",
         "redis_cut", "redis_delayed", "redis_half_open", "redis_failover", "receiver_fails",
         "receiver_hangs", "receiver_cuts", "deploy_api", "deploy_worker", "disk_full", "clock_back",
         "clock_forward"]
KILLS = {"kill_api", "kill_worker", "kill_redis", "redis_restarted_empty"}


def times(ms):
    return {"p50_ms": ms, "p95_ms": ms * 2, "p99_ms": ms * 3, "p99_9_ms": ms * 4, "max_ms": ms * 5}


def answers(ok, refused):
    kinds = ["refused", "timeout", "other_status", "connection", "wrong_answer", "not_sent"]
    return {
        "requests": ok + refused,
        "ok": ok,
        "failed": dict.fromkeys(kinds, 0) | {"refused": refused},
        "latency": times(4.2) if ok else None,
        "first_failure": "refused with 503 Service Unavailable" if refused else None,
    }


def storm(ok, refused, points, **more):
    series = [
        {"at_ms": number * 100, "offered": 1, "sent": 1, "ok": int(ok > 0), "refused": int(ok == 0),
         "failed": 0, "in_flight": 1, "answer": times(4.2) if ok else None, "completed": 0,
         "completion": None}
        for number in range(points)
    ]
    buckets = [[4.467, ok]] if ok else []
    return {
        "command": "storm", "passed": ok > 0, "written_at": "2026-11-30T12:00:00Z", "machine": MACHINE,
        "api": "http://127.0.0.1:8000", "mode": "sync", "rate": 10, "duration_ms": 1000.0,
        "handler": None, "records": 10, "payload_bytes": None, "interrupted": False,
        "offered": ok + refused, "sent": ok + refused, "unanswered": 0,
        "answers": answers(ok, refused), "completion": None, "jobs": None,
        "series": {"interval_ms": 100, "points": series},
        "distribution": {"answer": buckets, "completion": []},
    } | more


def chaos():
    faults, at = [], 900
    for round_ in range(4):
        for number, kind in enumerate(KINDS):
            healed = at + 120 + 700 * ((number + round_) % 4)
            faults.append({"kind": kind, "at_ms": at, "healed_ms": healed, "in_flight": 3 + number,
                           "kill": kind in KILLS})
            at += 790
    points = []
    for number in range(0, at + 8000, 500):
        broken = any(it["at_ms"] <= number < it["healed_ms"] for it in faults)
        accepted = (40 if broken else 165) if number < at else 0
        delivered = 30 if broken else 120 + round(60 * abs(math.sin(number / 3000)))
        points.append({"at_ms": number, "accepted": accepted, "refused": 90 if broken else 0,
                       "delivered": delivered if number < at + 5000 else 0, "ended": delivered,
                       "unfinished": max(0, round(300 + 200 * math.sin(number / 4000)))})
    counts = {it: {"times": 4, "min": 3, "median": 12, "max": 40} for it in KINDS}
    violations = [{"rule": "ended", "id": "01a210fc-8665-7199-9e23-48e1bf3252ac",
                   "what": "the job was accepted with 202, and there is no row <of it>"}]
    sizes = {"database": 9 << 20, "log": 1 << 20, "redis_memory": 2 << 20, "redis_entries": 3,
             "resident": [["api", 20 << 20], ["worker-1", 31 << 20], ["worker-2", 30 << 20]]}
    waits = ["after_kill", "after_kills", "after_freeze", "after_flush", "after_failover"]
    return {
        "command": "chaos", "passed": False, "written_at": "2026-11-30T12:00:00Z", "machine": MACHINE,
        "seed": 18446744073709551615, "store": "sqlite", "duration_ms": 60000.0, "jobs": 20000,
        "lease_ms": 3000.0, "took_ms": 81234.5, "kills": 16, "clock_steps": 8, "not_sent": 0,
        "recovery": {it: {"jobs": 12, "longest_ms": 3456.7} for it in waits},
        "footprints": [sizes | {"moment": it} for it in ("start", "storm", "settled", "again")],
        "interrupted": False, "violations": ["worker-1 exited by itself with status 101"],
        "verdict": {"violations": violations,
                    "summary": {"accepted": 19000, "rows": 19012, "refused": {"503": 900},
                                "ended": {"COMPLETED": 18000, "FAILED callback_failed": 1012},
                                "faults": counts}},
        "course": {"interval_ms": 500, "points": points, "faults": faults,
                   "parts": [{"part": "storm", "at_ms": at}, {"part": "settled", "at_ms": at + 6000},
                             {"part": "again", "at_ms": at + 7500}]},
    }


def main(folder):
    results = {
        "chaos": chaos(),
        "refused": storm(0, 10, 10),
        "one-point": storm(1, 0, 1),
        "interrupted": storm(3, 0, 3, interrupted=True, passed=False, unanswered=7),
        "nothing": storm(0, 0, 0, interrupted=True, passed=False),
    }
    for name, result in results.items():
        (pathlib.Path(folder) / f"{name}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
