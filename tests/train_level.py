"""`python -m tests.train_level`: the command in the code that is tested, installed or not."""

from train.cli import train_level

if __name__ == "__main__":
    train_level(prog_name="train-level")
