package sandbox

import "unsafe"

// addressOf returns a pointer for a system call that package unix has no function for.
func addressOf[T any](v *T) uintptr { return uintptr(unsafe.Pointer(v)) }
