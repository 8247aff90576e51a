"""What GPUs can do, from their makers' data sheets. Needs no torch.

Products are dense: the sheets' figures with sparsity are halved. float32 is that of the ordinary
cores, since the trainer does not ask for TF32.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        memory: GiB.
        bf16: products with bfloat16 inputs and float32 sums, TFLOP/s.
        float32: TFLOP/s.
        source: the document that says so.
    """

    memory: int
    bf16: float
    float32: float
    source: str

    @property
    def bytes(self) -> int:
        return self.memory << 30

    def flops(self, precision: str) -> float:
        """FLOP/s at the peak, of `bf16` or `float32`."""
        return 1e12 * (self.bf16 if precision == "bf16" else self.float32)


GPUS = {
    "a100-40": Gpu(40, 312, 19.5, "NVIDIA A100 data sheet"),
    "a100-80": Gpu(80, 312, 19.5, "NVIDIA A100 data sheet"),
    "h100": Gpu(80, 989.5, 67, "NVIDIA H100 data sheet, SXM"),
    "h100-pcie": Gpu(80, 756.5, 51, "NVIDIA H100 data sheet of 2022, PCIe"),
    "h200": Gpu(141, 989.5, 67, "NVIDIA H200 data sheet, SXM"),
    "b200": Gpu(180, 2250, 75, "NVIDIA DGX B200 data sheet, an eighth"),
    "l40s": Gpu(48, 362, 91.6, "NVIDIA L40S data sheet"),
    "l4": Gpu(24, 121, 30.3, "NVIDIA L4 data sheet"),
    "rtx4090": Gpu(24, 165.2, 82.6, "NVIDIA Ada architecture white paper, appendix A"),
    "mi300x": Gpu(192, 1307.4, 163.4, "AMD Instinct MI300X data sheet"),
}
"""By the name that GPU= takes."""
