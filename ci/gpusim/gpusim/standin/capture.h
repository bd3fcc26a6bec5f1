// Work that goes into a graph, in place of being done at once.
#pragma once
#include <functional>

// Whether `work`, asked for in a stream, is kept because a graph is captured there. In cudart.cpp.
extern "C" bool gpusim_keep(void* stream, const std::function<int()>& work);
