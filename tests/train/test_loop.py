from __future__ import annotations

import errno
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from placecell.errors import ImageError, PlacecellError
from placecell.log import Silent
from placecell.train.loop import Batch, Plan, Trained
from train.toy import Net, Toy, onecycle, train

SCRIPT = Path(__file__).with_name("toy.py")


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As toy.py: sums of more threads round otherwise, and other tests may have left any number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole() -> Trained:
    """The training that nothing interrupts."""
    return train(Toy())


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


class TestLoop:
    def test_it_is_the_loop_that_one_would_write_by_hand(self) -> None:
        task, network = Toy(), Net(dropout=0)
        optimizer, schedule = onecycle(network, 10)
        average = [weight.detach().clone() for weight in network.parameters()]
        for step in range(10):
            batch = task.batch(step, 0, 1)
            optimizer.zero_grad()
            task.loss(network, batch, step)["loss"].backward()
            clip_grad_norm_(network.parameters(), 0.1)
            optimizer.step()
            schedule.step()
            decay = min(0.7, (1 + step) / (10 + step))
            average = [decay * a + (1 - decay) * w.detach() for a, w in zip(average, network.parameters(), strict=True)]
        ours = train(Toy(), network=Net(dropout=0), clip_norm=0.1, average=0.7)
        pairs = list(zip(ours.network.parameters(), average, strict=True))
        assert all(torch.allclose(mine, theirs, atol=1e-6) for mine, theirs in pairs)
        plain = train(Toy(), network=Net(dropout=0), clip_norm=0.1, average=0.0)
        assert all(
            torch.allclose(a, b, atol=1e-6)
            for a, b in zip(plain.network.parameters(), network.parameters(), strict=True)
        )

    def test_it_learns(self) -> None:
        trained = train(Toy(), network=Net(dropout=0), steps=150, validate_every=150)
        assert trained.validation["cm"] < 15  # 90 before

    def test_the_same_seed_gives_the_same_to_the_bit(self, whole: Trained) -> None:
        torch.rand(3)  # the state of the global generator is of no matter
        again = train(Toy())
        assert same(again.network, whole.network)
        assert again.log_csv == whole.log_csv

    def test_another_seed_gives_another(self, whole: Trained) -> None:
        assert not same(train(Toy(), seed=1).network, whole.network)

    def test_it_draws_from_no_global_generator(self) -> None:
        before = torch.get_rng_state()
        train(Toy())
        assert torch.equal(torch.get_rng_state(), before)

    def test_every_step_draws_something_else(self) -> None:
        drawn: list[Tensor] = []
        train(Toy(at={step: lambda: drawn.append(torch.rand(1)) for step in range(5)}))
        assert len({float(value) for value in drawn}) == 5

    def test_looking_at_it_changes_nothing(self, whole: Trained) -> None:
        class Careless(Toy):
            def validate(self, network: nn.Module) -> dict[str, float]:
                torch.rand(5)
                network.train()
                network(self.images)
                return {}

        careless = train(Careless(), validate_every=2, average=0.0)
        assert same(careless.network, train(Toy(), validate_every=0, average=0.0).network)

    def test_what_is_validated_is_what_is_returned(self) -> None:
        for average in (0.0, 0.9):
            task = Toy()
            trained = train(task, average=average)
            assert trained.validation["cm"] == pytest.approx(task.validate(trained.network)["cm"], rel=1e-5)
            assert not trained.network.training

    def test_the_table_and_the_lines(self, whole: Trained) -> None:
        lines = whole.log_csv.splitlines()
        assert lines[0] == "step,loss,error,learning_rate,val_cm"
        assert [line.split(",")[0] for line in lines[1:]] == [str(step) for step in range(1, 11)]
        assert [bool(line.split(",")[4]) for line in lines[1:]] == [step in (4, 8, 10) for step in range(1, 11)]
        assert lines[1].split(",")[3] == "0.0004"  # the rate that the first step was made with
        notes = Notes()
        train(Toy(), log=notes)
        assert [line.split(":")[0] for line in notes.said] == [f"step {step} of 10" for step in (4, 8, 10)]
        notes = Notes()
        train(Toy(), log=notes, validate_every=0)
        assert [line.split(":")[0] for line in notes.said] == [f"step {step} of 10" for step in (3, 6, 9, 10)]

    def test_the_network_computes_in_bf16_and_the_loss_does_not(self) -> None:
        kinds: set[tuple[str, torch.dtype]] = set()

        class Watching(Toy):
            def loss(self, network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
                answer = network(batch["images"])
                kinds.add(("answer", answer.dtype))
                kinds.add(("product", (answer @ answer.T).dtype))
                return super().loss(network, batch, step)

        network = Net()
        network.convolution.register_forward_hook(lambda module, given, out: kinds.add(("map", out.dtype)))
        trained = train(Watching(), network=network, precision="bf16", validate_every=0)
        assert kinds == {("map", torch.bfloat16), ("answer", torch.float32), ("product", torch.float32)}
        assert {weight.dtype for weight in trained.network.parameters()} == {torch.float32}

    @pytest.mark.parametrize("last", [True, False])
    def test_channels_last(self, last: bool) -> None:
        network = Net()
        orders: set[bool] = set()

        def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            orders.add(given[0].is_contiguous(memory_format=torch.channels_last))
            orders.add(network.convolution.weight.is_contiguous(memory_format=torch.channels_last))

        handle = network.convolution.register_forward_pre_hook(look)
        trained = train(Toy(), network=network, channels_last=last, validate_every=0)
        handle.remove()
        assert orders == {last}
        assert trained.network is network
        assert all(tensor.is_contiguous() for tensor in network.state_dict().values())

    def test_plans_are_checked(self) -> None:
        for wrong in ({"steps": 0}, {"batch": 0}, {"average": 1.0}, {"seed": -1}, {"devices": 0}, {"clip_norm": -1}):
            with pytest.raises(ValueError, match="Plan"):
                Plan(**{"steps": 1, "batch": 1, **wrong})  # type: ignore[arg-type]

    def test_batches_are_made_while_the_network_works(self) -> None:
        begun, while_working = [], []

        class Noting(Toy):
            def batch(self, step: int, rank: int, ranks: int) -> Batch:
                begun.append(step)
                return super().batch(step, rank, ranks)

        class Working(Net):
            def forward(self, images: Tensor) -> Tensor:
                time.sleep(0.02)
                while_working.append(len(begun))
                return super().forward(images)

        train(Noting(), network=Working(), steps=10, validate_every=0, checkpoint_every=0)
        assert all(count >= min(step + 2, 10) for step, count in enumerate(while_working))
        assert len(while_working) == 10


class TestInterruption:
    @pytest.mark.parametrize("step", [0, 1, 4, 5, 9])
    def test_a_training_that_goes_on_is_one_that_never_stopped(self, tmp_path: Path, whole: Trained, step: int) -> None:
        part = train(Toy(at={step: raising(KeyboardInterrupt())}), work=tmp_path)
        assert (part.steps, part.interrupted) == (step, True)
        rows = [line.rstrip(",") for line in part.log_csv.splitlines()[1:]]  # no column before the first validation
        assert rows == [line.rstrip(",") for line in whole.log_csv.splitlines()[1 : step + 1]]
        rest = train(Toy(), work=tmp_path)
        assert (rest.steps, rest.interrupted) == (10, False)
        assert same(rest.network, whole.network)
        assert (rest.log_csv, rest.validation) == (whole.log_csv, whole.validation)

    def test_it_may_stop_at_every_step(self, tmp_path: Path, whole: Trained) -> None:
        for step in range(10):
            part = train(Toy(at={step: press}), work=tmp_path)
            assert (part.steps, part.interrupted) == (step + 1, step < 9)
        assert same(part.network, whole.network)
        assert part.log_csv == whole.log_csv

    def test_stopped_in_the_middle_of_a_validation(self, tmp_path: Path, whole: Trained) -> None:
        class Impatient(Toy):
            def validate(self, network: nn.Module) -> dict[str, float]:
                raise KeyboardInterrupt

        part = train(Impatient(), work=tmp_path)
        assert (part.steps, len(part.log_csv.splitlines())) == (4, 5)
        assert same(train(Toy(), work=tmp_path).network, whole.network)

    def test_what_is_stopped_early_is_usable_and_says_so(self) -> None:
        notes = Notes()
        part = train(Toy(at={5: press}), log=notes)
        assert notes.said[-1] == "stopped after step 6 of 10"
        assert not part.network.training
        assert part.network(torch.zeros(1, 3, 9, 9)).isfinite().all()

    def test_the_second_press_kills(self, tmp_path: Path) -> None:
        def twice() -> None:
            press()
            press()

        with pytest.raises(KeyboardInterrupt):
            train(Toy(at={5: twice}), work=tmp_path)
        assert train(Toy(at={3: raising(KeyboardInterrupt())}), work=tmp_path).steps == 3  # the last that was kept

    def test_what_is_finished_is_not_trained_again(self, tmp_path: Path, whole: Trained) -> None:
        train(Toy(), work=tmp_path)
        never = {step: raising(AssertionError("trained again")) for step in range(10)}
        again = train(Toy(at=never), work=tmp_path)
        assert same(again.network, whole.network)
        assert (again.log_csv, again.validation) == (whole.log_csv, whole.validation)

    def test_the_files(self, tmp_path: Path) -> None:
        work = tmp_path / "deep" / "map.work"
        train(Toy(at={4: press}), work=work)
        train(Toy(), work=work)
        lines = (work / "training.csv").read_text().splitlines()
        assert lines[0] == "step,loss,error,learning_rate,val_cm,seconds"
        seconds = [float(line.split(",")[-1]) for line in lines[1:]]
        assert len(seconds) == 10
        assert seconds == sorted(seconds)
        assert {path.name for path in work.iterdir()} == {
            "training.csv",
            "checkpoint.json",
            "checkpoint-00000010.safetensors",
        }

    def test_nothing_is_kept_where_nothing_shall_be(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        train(Toy(at={4: press}), work=None)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("changes", "difference"),
        [
            ({"identity": {"scene": "office"}}, 'scene was "toy", is "office"'),
            ({"seed": 3}, "seed was 0, is 3"),
            ({"steps": 12}, "steps was 10, is 12"),
            ({"average": 0.0}, r"average was 0\.9, is 0\.0"),
        ],
    )
    def test_a_checkpoint_of_another_training(self, tmp_path: Path, changes: dict[str, Any], difference: str) -> None:
        train(Toy(at={4: press}), work=tmp_path)
        with pytest.raises(PlacecellError, match=rf"holds another training: {difference}; delete it"):
            train(Toy(), work=tmp_path, **changes)

    def test_killed_for_real(self, tmp_path: Path, whole: Trained) -> None:
        """One program gets a Ctrl-C at step 4, goes on by itself, and is killed at step 8."""
        with running("interrupted", tmp_path) as process:
            wait_for(tmp_path / "at-4", process)
            process.send_signal(signal.SIGINT)
            (tmp_path / "go-4").touch()
            wait_for(tmp_path / "at-8", process)
            process.kill()
        assert (tmp_path / "stopped").read_text() == "5 True"
        rest = train(Toy(at={5: raising(AssertionError("step 6 was kept")), 6: press}), work=tmp_path)
        assert rest.steps == 7
        rest = train(Toy(), work=tmp_path)
        assert same(rest.network, whole.network)
        assert rest.log_csv == whole.log_csv


class TestFailure:
    def test_a_loss_that_is_no_number(self, tmp_path: Path) -> None:
        names = Toy().named(4)
        with pytest.raises(PlacecellError) as caught:
            train(Toy(scale={4: float("nan")}), work=tmp_path)
        assert str(caught.value) == (
            f"loss is nan at step 5 (frames {', '.join(names[:3])} and 5 more); "
            f"the weights of step 3 are kept in {tmp_path}; lower --learning-rate"
        )
        assert train(Toy(at={3: raising(KeyboardInterrupt())}), work=tmp_path).steps == 3
        with pytest.raises(PlacecellError, match=r"loss is inf at step 5 .*; no earlier weights are kept;"):
            train(Toy(scale={4: float("inf")}))

    def test_weights_that_the_last_step_broke_are_neither_kept_nor_returned(self, tmp_path: Path) -> None:
        """The loss of a step is taken before it moves the weights."""

        def breaking(network: nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
            made = SGD(network.parameters(), lr=1.0)
            return made, LambdaLR(made, lambda step: math.nan if step == steps - 1 else 0.1)

        names = Toy().named(9)
        for work, kept in ((tmp_path, f"the weights of step 9 are kept in {tmp_path}"), (None, "no earlier weights")):
            with pytest.raises(PlacecellError) as caught:
                train(Toy(), work=work, make=breaking, validate_every=0)
            assert str(caught.value).startswith(f"a weight is nan at step 10 (frames {', '.join(names[:3])} and 5 more")
            assert kept in str(caught.value)
        assert json.loads((tmp_path / "checkpoint.json").read_text())["step"] == 9

    def test_answers_to_the_held_out_that_are_no_numbers(self) -> None:
        class Blind(Toy):
            def validate(self, network: nn.Module) -> dict[str, float]:
                return {"cm": math.nan}

        with pytest.raises(PlacecellError, match=r"^val_cm is nan at step 4 \(frames .*; no earlier weights are kept"):
            train(Blind())

    def test_a_gradient_that_is_no_number(self) -> None:
        class Steep(Toy):
            def loss(self, network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
                losses = super().loss(network, batch, step)
                nothing = (losses["loss"] - losses["loss"].detach()).abs()
                return {"loss": losses["loss"] + (nothing.sqrt() if step == 2 else 0)}

        with pytest.raises(PlacecellError, match="gradient norm is nan at step 3"):
            train(Steep())

    def test_memory_that_runs_out(self, tmp_path: Path) -> None:
        error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")
        with pytest.raises(PlacecellError, match=r"^out of memory at step 5 with 8 pictures a step; lower --batch or"):
            train(Toy(at={4: raising(error)}), work=tmp_path)
        assert train(Toy(at={3: raising(KeyboardInterrupt())}), work=tmp_path).steps == 3

    def test_memory_that_runs_out_while_a_batch_is_made(self) -> None:
        with pytest.raises(PlacecellError, match="out of memory at step 3"):
            train(bad_batch(MemoryError()))

    def test_an_error_of_a_batch(self) -> None:
        done: list[int] = []
        task = bad_batch(ImageError("photos/2.jpg: not a picture"))
        task.at = {step: (lambda step=step: done.append(step)) for step in range(10)}
        with pytest.raises(ImageError, match=r"^photos/2\.jpg: not a picture$"):
            train(task)
        assert done == [0, 1]
        with pytest.raises(ZeroDivisionError) as caught:
            train(bad_batch(ZeroDivisionError()))
        assert "batch of step 3 (frames frame-" in caught.value.__notes__[0]

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Trained) -> None:
        def fill() -> None:
            monkeypatch.setattr(os, "fsync", raise_full)

        def raise_full(number: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(PlacecellError, match="No space left on device") as caught:
            train(Toy(at={4: fill}), work=tmp_path)
        assert "\n" not in str(caught.value)
        monkeypatch.undo()
        rest = train(Toy(), work=tmp_path)
        assert same(rest.network, whole.network)
        assert rest.log_csv == whole.log_csv

    def test_a_device_that_is_not_there(self) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is one")
        with pytest.raises(PlacecellError, match="--device cuda: this machine has no such device"):
            train(Toy(), device="cuda")


def bad_batch(error: Exception) -> Toy:
    class Bad(Toy):
        def batch(self, step: int, rank: int, ranks: int) -> Batch:
            if step == 2:
                raise error
            return super().batch(step, rank, ranks)

    return Bad()


@contextmanager
def running(kind: str, work: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """toy.py as a program of its own; it ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(SCRIPT), kind, str(work)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
        time.sleep(0.02)


class TestSeveralDevices:
    """Two processes on the CPU; `train` shares the batch of eight out among them."""

    def joined(self) -> Trained:
        return train(Toy(), network=Net(dropout=0, norm=False))

    def check(self, work: Path) -> None:
        alone = self.joined()
        together = load_file(work / "done-0.safetensors")
        assert all(
            torch.allclose(weight, together[name], atol=1e-5) for name, weight in alone.network.state_dict().items()
        )
        rows = [
            [line.split(",") for line in text.splitlines()] for text in (alone.log_csv, (work / "done.csv").read_text())
        ]
        assert rows[0][0] == rows[1][0]
        for mine, theirs in zip(rows[0][1:], rows[1][1:], strict=True):
            numbers = [[float(cell or 0) for cell in cells] for cells in (mine, theirs)]
            assert numbers[0] == pytest.approx(numbers[1], abs=1e-3)
        assert not (work / "done-1.safetensors").exists()  # the second ended with the training

    def test_they_learn_from_the_joined_batch(self, tmp_path: Path) -> None:
        """Started as torchrun would start them."""
        launcher = {
            "TORCHELASTIC_RUN_ID": "none",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "GROUP_WORLD_SIZE": "1",
        }
        with (
            running("both", tmp_path, **launcher, RANK="0", LOCAL_RANK="0") as first,
            running("both", tmp_path, **launcher, RANK="1", LOCAL_RANK="1") as second,
        ):
            assert [process.communicate(timeout=100)[0] for process in (first, second)] == ["", ""]
            assert (first.returncode, second.returncode) == (0, 0)
        self.check(tmp_path)

    @pytest.mark.slow
    def test_the_second_is_started_by_the_first(self, tmp_path: Path) -> None:
        with running("both", tmp_path) as process:
            assert process.communicate(timeout=100)[0] == ""
            assert process.returncode == 0
        self.check(tmp_path)

    @pytest.mark.slow
    def test_a_failure_is_said_once_and_leaves_no_process(self, tmp_path: Path) -> None:
        with running("nan", tmp_path) as process:
            said = process.communicate(timeout=100)[0]
        assert "Diverged: loss is nan at step 3 (frames" in said.splitlines()[-1]
        assert said.count("Diverged: ") == 1
        assert process.returncode == 1


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
