# librdkafka 2.12.1 built by CMake never defines these two, and its rd_atomic32_set() then returns the new value instead
# of the old one. So "all brokers are down" is never noticed, and no client ever goes back to bootstrap.servers.
# librdkafka defines them by itself from 2.15.0 on.
add_compile_definitions(HAVE_ATOMICS_32_ATOMIC=1 HAVE_ATOMICS_64_ATOMIC=1)
