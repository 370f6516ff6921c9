#!/usr/bin/env bash
# The settings of known machines, as the positionals of scripts/run_pretraining.sh. To use one:
#
#   bash scripts/run_pretraining.sh $(source scripts/configs/pretrain_config.sh && dgxa100_8gpu_amp)
#
# The global batch is NVIDIA's: 67,584 sequences of 128, then 27,648 of 512 (DGX-1 in fp32: 67,520 on eight GPUs, 67,560 on one).

# recipe NAME PRECISION GPUS XLA BATCH_P1 ACCUMULATION_P1 BATCH_P2 ACCUMULATION_P2
recipe() {
  echo "$5 6e-3 $2 $3 $4 2000 10000 500 false lamb true $6 42 electra_lamb_pretraining_$1 $7 4e-3 200 933 $8 base"
}

dgxa100_8gpu_amp() { recipe dgxa100_8gpu_amp amp 8 xla 176 48 24 144; }
dgxa100_8gpu_tf32() { recipe dgxa100_8gpu_tf32 tf32 8 xla 88 96 12 288; }
dgx2_16gpu_amp() { recipe dgx2_16gpu_amp amp 16 xla 176 24 24 72; }
dgx2_16gpu_fp32() { recipe dgx2_16gpu_fp32 fp32 16 xla 88 48 12 144; }
dgx1_8gpu_amp() { recipe dgx1_8gpu_amp amp 8 xla 88 96 12 288; }
dgx1_8gpu_fp32() { recipe dgx1_8gpu_fp32 fp32 8 xla 40 211 6 576; }
dgxa100_1gpu_amp() { recipe dgxa100_1gpu_amp amp 1 xla 176 384 24 1152; }
dgxa100_1gpu_tf32() { recipe dgxa100_1gpu_tf32 tf32 1 xla 88 768 12 2304; }
dgx2_1gpu_amp() { recipe dgx2_1gpu_amp amp 1 xla 176 384 24 1152; }
dgx2_1gpu_fp32() { recipe dgx2_1gpu_fp32 fp32 1 xla 88 768 12 2304; }
dgx1_1gpu_amp() { recipe dgx1_1gpu_amp amp 1 xla 88 768 12 2304; }
dgx1_1gpu_fp32() { recipe dgx1_1gpu_fp32 fp32 1 xla 40 1689 6 4608; }

# ELECTRA-small on one GPU with the paper's Adam and 128 sequences an update, a tenth of it on long ones.
small_1gpu() {
  echo "128 5e-4 amp 1 xla 10000 900000 5000 false adam true 1 42 electra_small 32 2e-4 1000 100000 4 small"
}

# A few updates of the small model on a CPU, to see that everything is in place.
cpu_smoke() {
  echo "4 1e-3 tf32 1 no_xla 1 4 2 false adam true 2 42 electra_cpu_smoke 1 5e-4 1 2 2 small"
}
