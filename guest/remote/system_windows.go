package remote

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
)

// workstation is the product type of a Windows that is no server (VER_NT_WORKSTATION).
const workstation = 1

// ThisSystem is what this machine is, as far as it can be found out.
func ThisSystem() *System {
	v := windows.RtlGetVersion()
	return &System{
		OS: runtime.GOOS, Server: v.ProductType != workstation, Version: fmt.Sprintf("%d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber),
		PowerShell: powerShell(), Domain: text(`SYSTEM\CurrentControlSet\Services\Tcpip\Parameters`, "Domain"),
	}
}

// powerShell is the version that Windows PowerShell has written down: the key 3 is that of 3.0 and all after it.
func powerShell() string {
	for _, key := range []string{`SOFTWARE\Microsoft\PowerShell\3\PowerShellEngine`, `SOFTWARE\Microsoft\PowerShell\1\PowerShellEngine`} {
		if v := text(key, "PowerShellVersion"); v != "" {
			return v
		}
	}
	return ""
}

// text is a value of the registry, empty where there is none.
func text(path, name string) string {
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, path, registry.QUERY_VALUE)
	if err != nil {
		return ""
	}
	defer k.Close()
	v, _, err := k.GetStringValue(name)
	if err != nil || len(v) > maxName {
		return ""
	}
	return v
}
