package hyperv

// SMB is where a machine's SMB is reached, HOST or HOST:PORT: a host of the site, or a file server that its VMs lie on. Empty: by its
// name, at the usual port. Who brings something to a host, or asks a file server, goes the way that the site's files come.
func (s *Site) SMB(machine string) string { return s.whereFiles(machine) }
