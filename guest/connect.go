package guest

import (
	"context"
	"io"
)

// Connect starts a component that lies ready in a guest and begins a session with it. Where the channel is a [Launcher] the
// frames go over the program's own streams; otherwise a component stays in the guest's memory and each step is a program
// that runs and ends: see [Stream]. The context bounds the beginning alone.
func Connect(ctx context.Context, ch Channel, p Program, opts *ComponentOptions) (*Component, error) {
	stream, err := Stream(ctx, ch, p)
	if err != nil {
		return nil, err
	}
	return Dial(ctx, stream, opts)
}

// Stream starts a component and is the stream of its frames. What the channel adds to the program's arguments names the
// folder that the program lies in. A component that is not spoken to ends with its lease.
func Stream(ctx context.Context, ch Channel, p Program) (io.ReadWriteCloser, error) {
	if l, ok := ch.(Launcher); ok {
		return l.Launch(ctx, p)
	}
	return startRelay(ctx, ch, p)
}
