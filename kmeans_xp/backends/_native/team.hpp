// Threads that share the parts of a pass. A team lives as long as a call and starts its threads at its first large
// pass; none is kept, so that processes can fork at any time.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "passes.hpp"

namespace kmeans {

class Team {
  public:
    // `interrupted` is asked every 50 ms, on the thread of the caller, whether to give up.
    Team(int n_threads, std::function<bool()> interrupted)
        : n_threads_(n_threads < 1 ? 1 : n_threads), interrupted_(std::move(interrupted)) {}

    ~Team() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            ended_ = true;
        }
        begun_.notify_all();
        for (std::thread& helper : helpers_) helper.join();
    }

    Team(const Team&) = delete;

    int n_threads() const { return n_threads_; }

    // Call function(part, worker) for all parts; workers are numbered from 0, which is the caller. The caller takes
    // parts too, and waits only for those that a helper has begun: where another process holds the processor, nobody
    // waits for a helper that never came.
    void run(Index n_parts, bool pays, const std::function<void(Index, int)>& function) {
        if (!pays || n_threads_ == 1 || n_parts == 1) {
            for (Index part = 0; part < n_parts && !stopped(); part++) function(part, 0);
            return;
        }
        start_helpers();
        {
            std::lock_guard<std::mutex> lock(mutex_);
            function_ = &function;
            next_ = 0;
            n_parts_ = n_parts;
            n_working_ = 0;
        }
        begun_.notify_all();
        take_parts(0);
        std::unique_lock<std::mutex> lock(mutex_);
        while (!done_.wait_for(lock, std::chrono::milliseconds(50), [&] { return n_working_ == 0; })) {
            lock.unlock();
            poll();
            lock.lock();
        }
        n_parts_ = 0;
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    }

    // Whether to give up, asked by whoever works.
    static bool stops(void* team) { return static_cast<Team*>(team)->poll(); }

    bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

    bool poll() {
        if (std::this_thread::get_id() == caller_) {
            const auto now = std::chrono::steady_clock::now();
            if (now - asked_ > std::chrono::milliseconds(50)) {
                asked_ = now;
                if (interrupted_()) stopped_.store(true, std::memory_order_relaxed);
            }
        }
        return stopped();
    }

  private:
    void start_helpers() {
        while (int(helpers_.size()) < n_threads_ - 1) {
            try {
                helpers_.emplace_back([this, worker = int(helpers_.size()) + 1] { help(worker); });
            } catch (const std::system_error&) {  // no thread can be started, by a limit: go on with those there are
                n_threads_ = int(helpers_.size()) + 1;
            }
        }
    }

    void help(int worker) {
        std::unique_lock<std::mutex> lock(mutex_);
        while (true) {
            begun_.wait(lock, [&] { return ended_ || next_ < n_parts_; });
            if (ended_) return;
            lock.unlock();
            take_parts(worker);
            lock.lock();
        }
    }

    void take_parts(int worker) {
        const bool is_helper = worker > 0;
        std::unique_lock<std::mutex> lock(mutex_);
        while (next_ < n_parts_) {
            const Index part = next_++;
            if (is_helper) n_working_++;
            const auto& function = *function_;
            lock.unlock();
            std::exception_ptr error;  // for the caller, once nobody works any more: that there is no memory, say
            try {
                if (!stopped()) function(part, worker);
            } catch (...) {
                error = std::current_exception();
            }
            lock.lock();
            if (error) {
                error_ = error;
                next_ = n_parts_;
            }
            if (is_helper && --n_working_ == 0) done_.notify_one();
        }
    }

    int n_threads_;
    std::function<bool()> interrupted_;
    std::thread::id caller_ = std::this_thread::get_id();
    std::chrono::steady_clock::time_point asked_ = std::chrono::steady_clock::now();
    std::atomic<bool> stopped_{false};
    std::vector<std::thread> helpers_;
    std::mutex mutex_;
    std::condition_variable begun_, done_;
    const std::function<void(Index, int)>* function_ = nullptr;
    Index next_ = 0, n_parts_ = 0, n_working_ = 0;
    bool ended_ = false;
    std::exception_ptr error_;
};

}  // namespace kmeans
