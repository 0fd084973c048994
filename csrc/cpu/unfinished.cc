#include "cpu_device.h"
namespace sg {
}
