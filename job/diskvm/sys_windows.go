package diskvm

// syncFolder: Windows has no call for it; NTFS keeps names in its own journal.
func (d *draft) syncFolder() error { return nil }
