//go:build !race

package ntfs

// slower is how much more time other tests beside this one are given.
const slower = 3
