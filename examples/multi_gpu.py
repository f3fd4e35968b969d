"""The digits on several GPUs of one machine, in one process.

    python examples/multi_gpu.py

One setting makes the trainer wrap the model in torch.nn.DataParallel. Without a GPU it says so and runs on
the CPU. The weights that it saves have plain keys, so a trainer without the setting loads them.
"""

import torch
from digits import Digits


class ParallelDigits(Digits):
    def define_compute_attr(self):
        self._data_parallel = True


if __name__ == "__main__":
    torch.manual_seed(0)
    print(f"{torch.cuda.device_count()} GPUs")
    trainer = ParallelDigits()
    trainer.train()
    result = trainer.test()
    print(f"test accuracy on several devices {result['accuracy']:.4f}")

    single = Digits()
    single.load_model(trainer.run_dir / "model.pth")
    print(f"the last epoch's weights in a plain model: test accuracy {single.test()['accuracy']:.4f}")
