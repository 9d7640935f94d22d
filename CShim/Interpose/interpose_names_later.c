// Owns: getaddrinfo_a and what belongs to it. Read first: getaddrinfo_a(3), sigevent(7).
//
// Requests wait in one queue for a thread, of which there are as many as there are requests, up to twenty; one ends when nothing
// is left to do. A request's state is its __return, as in libc: EAI_INPROGRESS while it waits or is looked up. A forked child
// has none of the threads: it begins with an empty queue.
#define _GNU_SOURCE
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "anp_process.h"
#include "interpose.h"

enum { MOST_THREADS = 20, STACK_BYTES = 256 << 10 };

/// The requests of one call.
struct batch {
  /// Not yet done, plus one while they are being queued.
  int left;
  struct sigevent event;
  pid_t caller;
};

struct request {
  struct gaicb *what;
  struct batch *batch;
  struct request *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct request *first, **end = &first;
static int threads;
static pid_t owner;
/// Goes up with each request that is done.
static _Atomic uint32_t done;

static void set_state(struct gaicb *what, int state) { __atomic_store_n(&what->__return, state, __ATOMIC_RELEASE); }
static int state_of(const struct gaicb *what) { return __atomic_load_n(&what->__return, __ATOMIC_ACQUIRE); }

// ---- Telling the program --------------------------------------------------------------------------------------------------

struct notice {
  void (*function)(union sigval);
  union sigval value;
};

static void *run_notice(void *context) {
  struct notice notice = *(struct notice *)context;
  free(context);
  notice.function(notice.value);
  return NULL;
}

static void notify(const struct sigevent *event, pid_t caller) {
  if (event->sigev_notify == SIGEV_SIGNAL) {
    siginfo_t info;
    memset(&info, 0, sizeof info);
    info.si_signo = event->sigev_signo;
    info.si_code = SI_ASYNCNL;
    info.si_pid = caller;
    info.si_uid = getuid();
    info.si_value = event->sigev_value;
    anp_syscall3(SYS_rt_sigqueueinfo, caller, event->sigev_signo, (long)&info);
  } else if (event->sigev_notify == SIGEV_THREAD) {
    pthread_attr_t own, *attributes = event->sigev_notify_attributes;
    if (!attributes) {
      pthread_attr_init(&own);
      pthread_attr_setdetachstate(&own, PTHREAD_CREATE_DETACHED);
    }
    struct notice *notice = malloc(sizeof *notice);
    pthread_t thread;
    if (notice) {
      *notice = (struct notice){event->sigev_notify_function, event->sigev_value};
      if (pthread_create(&thread, attributes ? attributes : &own, run_notice, notice) != 0) free(notice);
    }
    if (!attributes) pthread_attr_destroy(&own);
  }
}

/// One of the batch is done, or its queueing is. Not under the lock.
static void leave(struct batch *batch) {
  pthread_mutex_lock(&lock);
  int is_last = --batch->left == 0;
  pthread_mutex_unlock(&lock);
  if (is_last) {
    notify(&batch->event, batch->caller);
    free(batch);
  }
}

static void announce(void) {
  done++;
  anp_wake(&done, INT_MAX);
}

// ---- The threads ----------------------------------------------------------------------------------------------------------

static struct request *take_next(void) {
  pthread_mutex_lock(&lock);
  struct request *request = first;
  if (request) {
    first = request->next;
    if (!first) end = &first;
  } else {
    threads--;
  }
  pthread_mutex_unlock(&lock);
  return request;
}

static void *serve(void *nothing) {
  for (struct request *request; (request = take_next());) {
    struct gaicb *what = request->what;
    struct batch *batch = request->batch;
    free(request);
    int result = getaddrinfo(what->ar_name, what->ar_service, what->ar_request, &what->ar_result);
    // From here on the request is the program's again.
    set_state(what, result);
    announce();
    leave(batch);
  }
  return nothing;
}

static int start_thread(void) {
  pthread_attr_t attributes;
  pthread_t thread;
  sigset_t all, before;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int result = pthread_create(&thread, &attributes, serve, NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return result;
}

/// In a forked child: nothing is under way.
static void forget_parent(void) {
  pid_t self = getpid();
  if (owner == self) return;
  if (owner != 0) {
    pthread_mutex_init(&lock, NULL);
    first = NULL;
    end = &first;
    threads = 0;
  }
  owner = self;
}

// ---- The functions --------------------------------------------------------------------------------------------------------

/// Queues a request, under the lock. 0, or an EAI code.
static int queue(struct gaicb *what, struct batch *batch) {
  struct request *request = malloc(sizeof *request);
  if (!request) return EAI_MEMORY;
  *request = (struct request){what, batch, NULL};
  set_state(what, EAI_INPROGRESS);
  struct request **place = end;
  *end = request;
  end = &request->next;
  batch->left++;
  if (threads >= MOST_THREADS) return 0;
  threads++;
  if (start_thread() == 0) return 0;
  // The others will serve it, if there are any.
  if (--threads > 0) return 0;
  *place = NULL;
  end = place;
  batch->left--;
  free(request);
  return EAI_AGAIN;
}

static int count_in_progress(const struct gaicb *const *list, int count) {
  int found = 0;
  for (int i = 0; i < count; i++) found += list[i] && state_of(list[i]) == EAI_INPROGRESS;
  return found;
}

ANP_EXPORT int getaddrinfo_a(int mode, struct gaicb *list[], int count, struct sigevent *event) {
  if (mode != GAI_WAIT && mode != GAI_NOWAIT) {
    errno = EINVAL;
    return EAI_SYSTEM;
  }
  struct batch *batch = malloc(sizeof *batch);
  if (!batch) return EAI_MEMORY;
  *batch = (struct batch){.left = 1, .event = {.sigev_notify = SIGEV_NONE}, .caller = getpid()};
  if (event && mode == GAI_NOWAIT) batch->event = *event;
  forget_parent();
  int result = 0;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < count; i++) {
    if (!list[i]) continue;
    int error = queue(list[i], batch);
    if (error) {
      set_state(list[i], error);
      result = EAI_SYSTEM;
      errno = error == EAI_MEMORY ? ENOMEM : EAGAIN;
    }
  }
  pthread_mutex_unlock(&lock);
  leave(batch);
  if (mode == GAI_WAIT) {
    for (;;) {
      anp_enter();
      anp_wait_prepare();
      uint32_t seen = done;
      int goes_on = count_in_progress((const struct gaicb *const *)list, count) > 0;
      anp_leave();
      if (!goes_on) break;
      anp_wait(&done, seen, -1, ANP_WAIT_RESTARTABLE);
    }
  }
  return result;
}

ANP_EXPORT int gai_error(struct gaicb *request) { return state_of(request); }

ANP_EXPORT int gai_cancel(struct gaicb *what) {
  if (state_of(what) != EAI_INPROGRESS) return EAI_ALLDONE;
  pthread_mutex_lock(&lock);
  struct request **at = &first;
  while (*at && (*at)->what != what) at = &(*at)->next;
  struct request *request = *at;
  if (request) {
    *at = request->next;
    if (!*at) end = at;
  }
  pthread_mutex_unlock(&lock);
  if (!request) return state_of(what) == EAI_INPROGRESS ? EAI_NOTCANCELED : EAI_ALLDONE;
  set_state(what, EAI_CANCELED);
  announce();
  leave(request->batch);
  free(request);
  return EAI_CANCELED;
}

ANP_EXPORT int gai_suspend(const struct gaicb *const list[], int count, const struct timespec *timeout) {
  int valid;
  int64_t limit = anp_nanoseconds(timeout, &valid);
  int64_t deadline = limit >= 0 ? anp_monotonic_nanoseconds() + limit : 0;
  int waiting = count_in_progress(list, count);
  if (waiting == 0) return EAI_ALLDONE;
  anp_enter();
  for (;;) {
    anp_wait_prepare();
    uint32_t seen = done;
    int now = count_in_progress(list, count);
    int64_t left = limit < 0 ? -1 : deadline - anp_monotonic_nanoseconds();
    if (now < waiting || (limit >= 0 && left <= 0)) {
      anp_leave();
      return now < waiting ? 0 : EAI_AGAIN;
    }
    anp_leave();
    if (anp_wait(&done, seen, left, 0) == -EINTR) return EAI_INTR;
    anp_enter();
  }
}
