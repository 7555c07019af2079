package winsvc

import "golang.org/x/sys/windows"

// emulated reports whether this is wine.
func emulated() bool {
	return windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil
}
