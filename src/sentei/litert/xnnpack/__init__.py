"""When XNNPACK, the runtime's library for processors, computes with sparse weights."""
