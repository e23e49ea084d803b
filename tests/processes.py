"""Functions of the tests run in several processes that talk through gloo, as `accelerate launch` would start them.

The processes are forked from one that has imported everything, so a group of four is there in a moment.
"""

import io
import multiprocessing
import os
import traceback
from multiprocessing.connection import wait

import torch
from conftest import free_port

SECONDS = 120  # until a group that hangs is given up


def run_processes(count, function, *args):
    """What `function(*args)` gave in each of `count` processes, in the order of their ranks; it must be importable.

    The first exception of any process is raised here, as an AssertionError with its traceback.
    """
    ends, started = start_processes(count, function, *args)
    results, wrong = {}, {}
    try:
        while len(results) + len(wrong) < count:
            missing = [end for i, end in enumerate(ends) if i not in results | wrong]
            ready = wait(missing, timeout=5 if wrong else SECONDS)
            if wrong and not ready:
                break
            assert ready, f"{len(missing)} of {count} processes said nothing for {SECONDS} s"
            for end in ready:
                rank = ends.index(end)
                try:
                    good, value = end.recv()
                except EOFError:
                    good, value = False, f"process {rank} died with status {started[rank].exitcode}"
                if good:
                    results[rank] = torch.load(io.BytesIO(value))
                else:
                    wrong[rank] = f"process {rank} of {count}:\n{value}"
        # where one fails, the others find it gone
        assert not wrong, "\n".join(sorted(wrong.values(), key=lambda said: "gloo" in said))
    finally:
        for process in started:
            process.join(timeout=5 if len(results) == count else 0)
            if process.is_alive():
                process.kill()
    return [results[rank] for rank in range(count)]


def start_processes(count, function, *args):
    """The ends of pipes that results will come through, and the processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["conftest", "white_box_runs", "distill.running.stages", "peft"])
    port, ends, started = free_port(), [], []
    for rank in range(count):
        ours, theirs = context.Pipe(duplex=False)
        world = {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        process = context.Process(target=_work, args=(theirs, world, function, args), daemon=True)
        process.start()
        theirs.close()
        ends.append(ours)
        started.append(process)
    return ends, started


def _work(end, world, function, args):
    os.environ.update({name: str(value) for name, value in world.items()})
    torch.set_num_threads(1)
    try:
        value = io.BytesIO()
        torch.save(
            function(*args), value
        )  # sent as bytes: tensors by themselves would go through files of this process
        end.send((True, value.getvalue()))
    except SystemExit:  # of a recipe that has told why
        raise
    except BaseException:
        end.send((False, traceback.format_exc()))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
