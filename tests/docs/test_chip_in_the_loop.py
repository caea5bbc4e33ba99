"""What the page of the chip in the loop says is what the code does: its table of times, its messages, its bytes."""

import re
import socket
from pathlib import Path

import torch

from beyondprop.devices import DeviceServer
from beyondprop.devices.protocol import Kind, decode
from beyondprop.devices.wall_clock import table

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "rules" / "chip_in_the_loop.md").read_text(encoding="utf-8")


def test_times_are_those_that_the_library_estimates():
    shown = PAGE.split("<!-- wall-clock:begin -->\n\n")[1].split("\n\n<!-- wall-clock:end -->")[0]
    assert shown == table(20_000_000)


def test_messages_have_the_numbers_of_the_page():
    listed = {name: int(number) for number, name in re.findall(r"^\| (\d+) \| ([A-Z]+) \|", PAGE, re.MULTILINE)}
    assert listed == {kind.name: kind.value for kind in Kind}


class Sum:
    size = 2

    def write(self, parameters):
        self.parameters = parameters

    def present(self, x, y):
        self.presented = x.tolist(), y.tolist()

    def read(self, perturbations):
        return (self.parameters + perturbations).sum(dim=1)


def test_the_conversation_of_the_page_is_that_of_a_server():
    lines = re.findall(r"^([<>]) ((?:[0-9a-f]{8} ?)+)$", PAGE, re.MULTILINE)
    assert [side for side, _ in lines] == [">", "<"] * 4
    device = Sum()
    with DeviceServer(device, limit=1024).running() as server:
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            for side, text in lines:
                frame = bytes.fromhex(text)
                if side == ">":
                    connection.sendall(frame)
                else:
                    answer = b""
                    while len(answer) < len(frame):
                        answer += connection.recv(len(frame) - len(answer))
                    assert answer == frame
    assert device.presented == ([[0.5]], [1])
    kind, (costs,) = decode(bytes.fromhex(lines[-1][1])[4:])
    assert kind is Kind.DONE
    assert torch.equal(costs, torch.tensor([-1.0, -0.75]))
