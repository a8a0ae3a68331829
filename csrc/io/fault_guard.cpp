#include "io/fault_guard.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <mutex>
#include <thread>

namespace fastconv {

// Read by the signal handler, which may take no lock: a range is unlinked first and ends once no handler is looking.
struct GuardedRanges {
  static inline std::atomic<GuardedRange*> first{nullptr};
  static inline std::atomic<int> n_looking{0};
  static inline std::mutex changing;

  static void add(GuardedRange* range) {
    const std::lock_guard lock(changing);
    range->next_ = first.load();
    first = range;
  }

  static void remove(GuardedRange* range) {
    const std::lock_guard lock(changing);
    std::atomic<GuardedRange*>* link = &first;
    while (*link != range) link = &link->load()->next_;
    *link = range->next_.load();
    while (n_looking != 0) std::this_thread::yield();
  }

  // Puts zeros in the place of the page and all that follow it: a file that shrank has none of them, and what is lost
  // in one place is not used at all. mmap is a mere system call here.
  static bool replace(uintptr_t address) {
    bool replaced = false;
    ++n_looking;
    for (GuardedRange* range = first; range != nullptr && !replaced; range = range->next_) {
      if (address < range->begin_ || address >= range->end_) continue;
      range->lost_.store(true, std::memory_order_release);
      const uintptr_t page = address - address % static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
      replaced = mmap(reinterpret_cast<void*>(page), range->end_ - page, PROT_READ,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
    }
    --n_looking;
    return replaced;
  }
};

namespace {

std::mutex counting;
int n_guards = 0;
struct sigaction before;

void pass_on(int number, siginfo_t* info, void* context) {
  if ((before.sa_flags & SA_SIGINFO) != 0) return before.sa_sigaction(number, info, context);
  if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) return before.sa_handler(number);
  const bool is_fault = info->si_code > 0;
  if (before.sa_handler == SIG_IGN && !is_fault) return;
  // A fault comes again as soon as this returns, a signal that was sent does not.
  signal(number, SIG_DFL);
  if (!is_fault) raise(number);
}

void on_fault(int number, siginfo_t* info, void* context) {
  const int error = errno;
  const bool is_fault = info->si_code > 0;
  if (!is_fault || !GuardedRanges::replace(reinterpret_cast<uintptr_t>(info->si_addr))) pass_on(number, info, context);
  errno = error;
}

}  // namespace

GuardedRange::GuardedRange(void* data, size_t size) : begin_(reinterpret_cast<uintptr_t>(data)) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  end_ = (begin_ + size + page - 1) / page * page;
  GuardedRanges::add(this);
}

GuardedRange::~GuardedRange() { GuardedRanges::remove(this); }

FaultGuard::FaultGuard() {
  const std::lock_guard lock(counting);
  if (n_guards++ > 0) return;
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  // Known to the handler before it can be called.
  sigaction(SIGBUS, nullptr, &before);
  sigaction(SIGBUS, &action, nullptr);
}

FaultGuard::~FaultGuard() {
  const std::lock_guard lock(counting);
  if (--n_guards > 0) return;
  struct sigaction now;
  sigaction(SIGBUS, nullptr, &now);
  // Who came later keeps its place, and may still pass faults on.
  if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_fault) sigaction(SIGBUS, &before, nullptr);
}

}  // namespace fastconv
