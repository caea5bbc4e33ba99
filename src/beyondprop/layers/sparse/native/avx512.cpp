#define INSTRUCTION_SET avx512
#include "passes.h"
