// Package requestertest is a small shadow copy service for tests of what is above it: volumes are folders of this machine, a
// shadow copy is a copy of one, and one writer has VMs. It holds its caller to the order of calls, and writes each down.
//
// It knows nothing of what Hyper-V's writer does inside guests; hypervtest has the model of a host.
package requestertest
