/* Performance states of both processors, which QEMU's own tables lack: with them acpi-cpufreq binds and offers governors as on
   a real host. Three states at 3, 2 and 1 GHz; the register that sets them is an I/O port nothing listens on. */
DefinitionBlock ("", "SSDT", 2, "OMRON", "CPUFREQ", 1)
{
    External (\_SB.CPUS.C000, DeviceObj)
    External (\_SB.CPUS.C001, DeviceObj)

    Scope (\_SB.CPUS.C000)
    {
        Name (_PCT, Package ()
        {
            ResourceTemplate () { Register (SystemIO, 8, 0, 0xE9) },
            ResourceTemplate () { Register (SystemIO, 8, 0, 0xE9) }
        })
        /* MHz, mW, latency and bus latency in microseconds, what is written to the port, what is read from it */
        Name (_PSS, Package ()
        {
            Package () { 3000, 30000, 10, 10, 0x30, 0x30 },
            Package () { 2000, 20000, 10, 10, 0x31, 0x31 },
            Package () { 1000, 10000, 10, 10, 0x32, 0x32 }
        })
        Name (_PPC, 0)
    }

    Scope (\_SB.CPUS.C001)
    {
        Name (_PCT, Package ()
        {
            ResourceTemplate () { Register (SystemIO, 8, 0, 0xEA) },
            ResourceTemplate () { Register (SystemIO, 8, 0, 0xEA) }
        })
        Name (_PSS, Package ()
        {
            Package () { 3000, 30000, 10, 10, 0x30, 0x30 },
            Package () { 2000, 20000, 10, 10, 0x31, 0x31 },
            Package () { 1000, 10000, 10, 10, 0x32, 0x32 }
        })
        Name (_PPC, 0)
    }
}
