// The current CUDA device, as torch's CPU build asks for it: that of the stand-in.
#include <c10/core/impl/DeviceGuardImplInterface.h>

extern "C" int cudaGetDevice(int*), cudaSetDevice(int), cudaGetDeviceCount(int*);

namespace {

using namespace c10;

struct Guard final : impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
    Device getDevice() const override {
        int index = 0;
        cudaGetDevice(&index);
        return Device(DeviceType::CUDA, (DeviceIndex)index);
    }
    Device exchangeDevice(Device device) const override {
        const Device before = getDevice();
        setDevice(device);
        return before;
    }
    void setDevice(Device device) const override { uncheckedSetDevice(device); }
    void uncheckedSetDevice(Device device) const noexcept override {
        if (device.has_index()) cudaSetDevice(device.index());
    }
    Stream getStream(Device device) const noexcept override { return Stream(Stream::DEFAULT, device); }
    DeviceIndex deviceCount() const noexcept override {
        int count = 0;
        cudaGetDeviceCount(&count);
        return (DeviceIndex)count;
    }
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard);

}  // namespace
