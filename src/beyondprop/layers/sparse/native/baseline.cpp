#define INSTRUCTION_SET baseline
#include "passes.h"
