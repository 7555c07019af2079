package kvm

// FillCommand puts the paths of disks' files and of a monitor's socket into the slots of a command that starts a VM, as
// [StartOptions] has them: for who makes the files by other means than [Start]. A disk that no slot names is fs.ErrInvalid.
// Where the command has no slot for the monitor and tell is set, options for one are appended.
func FillCommand(command []string, disks []StartedDisk, monitor string, tell bool) ([]string, error) {
	return fillCommand(command, disks, monitor, tell)
}

// MonitorOptions are options by which QEMU listens at a monitor's socket.
func MonitorOptions(path string) []string { return monitorOptions(path) }

// Program is a VM's program that was started, and outlives this process.
type Program struct{ l *launched }

// Launch starts the program of a VM out of reach of what is sent to our terminal. What it prints goes to the file log,
// which is replaced.
func Launch(command []string, log string) (*Program, error) {
	l, err := launch(command, log)
	if err != nil {
		return nil, err
	}
	return &Program{l}, nil
}

// Over reports that the program has ended, and why in its own words. A program may end and leave the VM behind.
func (p *Program) Over() (bool, error) { return p.l.over() }
