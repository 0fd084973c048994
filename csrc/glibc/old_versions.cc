// Binds the addon to glibc's old versions of functions, so that one built on a new system loads on every system that
// Node itself runs on. The linker takes the newest version of a symbol that it finds; here each name is defined,
// hidden, as a jump to an older version of itself, which wins over the library's for our objects and for the static
// archives alike (libstdc++, CUDA's runtime). For most nothing but the library changed that they live in (2.34); exp,
// log, pow and hypot lost an error hook. scripts/prebuild fails when a name is missing here.
// clang-format off
#define OLD(name, version)                                  \
  asm(".pushsection .text.glibc." #name ",\"ax\"\n"         \
      ".symver old_" #name "," #name "@GLIBC_" version "\n" \
      ".globl " #name "\n"                                  \
      ".hidden " #name "\n"                                 \
      ".type " #name ",@function\n"                         \
      #name ": jmp *old_" #name "@GOTPCREL(%rip)\n"         \
      ".size " #name ",.-" #name "\n"                       \
      ".popsection");
// clang-format on

OLD(exp, "2.2.5")
OLD(exp2, "2.2.5")
OLD(hypot, "2.2.5")
OLD(hypotf, "2.2.5")
OLD(log, "2.2.5")
OLD(log2, "2.2.5")
OLD(pow, "2.2.5")

OLD(dlclose, "2.2.5")
OLD(dlerror, "2.2.5")
OLD(dlmopen, "2.3.4")
OLD(dlopen, "2.2.5")
OLD(dlsym, "2.2.5")
OLD(dlvsym, "2.2.5")

OLD(__pthread_key_create, "2.2.5")
OLD(pthread_condattr_setpshared, "2.2.5")
OLD(pthread_create, "2.2.5")
OLD(pthread_detach, "2.2.5")
OLD(pthread_getspecific, "2.2.5")
OLD(pthread_join, "2.2.5")
OLD(pthread_key_create, "2.2.5")
OLD(pthread_key_delete, "2.2.5")
OLD(pthread_kill, "2.2.5")
OLD(pthread_mutex_trylock, "2.2.5")
OLD(pthread_mutexattr_destroy, "2.2.5")
OLD(pthread_mutexattr_init, "2.2.5")
OLD(pthread_mutexattr_setpshared, "2.2.5")
OLD(pthread_mutexattr_settype, "2.2.5")
OLD(pthread_once, "2.2.5")
OLD(pthread_rwlock_destroy, "2.2.5")
OLD(pthread_rwlock_init, "2.2.5")
OLD(pthread_rwlock_rdlock, "2.2.5")
OLD(pthread_rwlock_timedrdlock, "2.2.5")
OLD(pthread_rwlock_timedwrlock, "2.2.5")
OLD(pthread_rwlock_tryrdlock, "2.2.5")
OLD(pthread_rwlock_trywrlock, "2.2.5")
OLD(pthread_rwlock_unlock, "2.2.5")
OLD(pthread_rwlock_wrlock, "2.2.5")
OLD(pthread_rwlockattr_destroy, "2.2.5")
OLD(pthread_rwlockattr_init, "2.2.5")
OLD(pthread_rwlockattr_setpshared, "2.2.5")
OLD(pthread_setname_np, "2.12")
OLD(pthread_setspecific, "2.2.5")
OLD(pthread_spin_destroy, "2.2.5")
OLD(pthread_spin_init, "2.2.5")
OLD(pthread_spin_lock, "2.2.5")
OLD(pthread_spin_trylock, "2.2.5")
OLD(pthread_spin_unlock, "2.2.5")
OLD(sem_destroy, "2.2.5")
OLD(sem_init, "2.2.5")
OLD(sem_post, "2.2.5")
OLD(sem_timedwait, "2.2.5")
OLD(sem_trywait, "2.2.5")
OLD(sem_wait, "2.2.5")
OLD(shm_open, "2.2.5")
OLD(shm_unlink, "2.2.5")
