//go:build race

package ntfs

// slower is how much more time the race detector, and other tests beside this one, are given.
const slower = 10
