// CRC-32 of IEEE 802.3 (reflected, polynomial 0xEDB88320), as in zlib.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onnxprune::ep {

uint32_t crc32(const void* data, size_t size);

}  // namespace onnxprune::ep
