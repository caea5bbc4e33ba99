#define INSTRUCTION_SET avx2
#include "passes.h"
