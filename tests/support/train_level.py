"""`python -m tests.support.train_level`: the command of the code under test, installed or not."""

from train.cli import train_level

if __name__ == "__main__":
    train_level(prog_name="train-level")
