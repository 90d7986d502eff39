"""What can be named beside methods: known here, so that a wrong name is refused before anything heavy is loaded."""

VERSION = "0.1.0"
PRESETS = ("quick", "small", "paper")  # of every method, and of a training
FORMATS = {  # of exported files, with their suffix
    "onnx": ".onnx", "onnx-int8": ".int8.onnx", "openvino": ".xml", "litert": ".tflite", "executorch": ".pte", "pt2": ".pt2",
    "python": ".py",
}  # fmt: skip

SPACES = {  # those an architecture file may name, and where they are from
    "darts": "DARTS, arXiv 1806.09055",
    "efficientnet": "EfficientNet, arXiv 1905.11946, in the form of HourNAS, arXiv 2005.14446v3",
    "fbnet": "FBNet, arXiv 1812.03443",
    "fbnet_enlarged": "HourNAS, arXiv 2005.14446v3",
    "hdas_cells": "H-DAS, arXiv 2101.04028v2",
    "hdas_stages": "H-DAS, arXiv 2101.04028v2",
    "hnas_basic": "HNAS, arXiv 2005.07564v1",
    "hnas_large": "HNAS, arXiv 2005.07564v1",
    "mnasnet": "MnasNet, arXiv 1807.11626, in the form of HourNAS, arXiv 2005.14446v3",
    "mobilenetv2": "MobileNetV2, arXiv 1801.04381; the choice of operations is ours",
    "nasbench_macro": "NAS-Bench-Macro, arXiv 2103.11922",
    "proxyless": "ProxylessNAS, arXiv 1812.00332",
    "tiny": "ours",
}

RUNTIMES = {  # that measure latency
    "onnxruntime": "ONNX Runtime on the CPU, with all graph optimisations. Input and output stay in buffers bound beforehand.",
    "onnxruntime-int8": "The same in INT8, quantised on noise: how fast `export --to onnx-int8` makes a network.",
    "openvino": "OpenVINO on the CPU in float32, with the hint LATENCY. Needs the extra hiernas[openvino].",
    "litert": "LiteRT (TensorFlow Lite) on the CPU, with XNNPACK. Needs the extra hiernas[litert].",
    "executorch": "ExecuTorch on the CPU, with XNNPACK. Needs the extra hiernas[executorch].",
    "torch": "Eager PyTorch on the CPU: for networks that are deployed so; it is several times slower than the others.",
    "torch_compiled": "PyTorch on the CPU, compiled by torch.compile with frozen weights. Needs a C++ compiler and takes its "
    "time.",
    "cuda": "Eager PyTorch on a GPU, timed by the GPU's own clock (CUDA events).",
}
