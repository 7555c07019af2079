package cell

import "fmt"

// Writer builds the file of one object in memory: the stream goes straight into cells, parity and trailers are
// computed in place. Its buffer serves one object after another. It is not safe for concurrent use.
type Writer struct {
	id       Ident
	permille int
	buf      []byte // the cells begun so far
	stream   int
	done     bool

	shards [][]byte // payloads of buf
}

// NewWriter returns a writer whose objects get permille (0 … 1000) parity cells for each thousand data cells, and at
// least two. capacity is how many bytes of stream to make room for at once; the buffer grows beyond it.
func NewWriter(id Ident, permille, capacity int) *Writer {
	if permille < 0 || permille > 1000 {
		panic(fmt.Sprintf("cell: parity of %d permille", permille))
	}
	g := geometryOf(id, permille, min(max(capacity, 0), MaxStream))
	return &Writer{id: id, permille: permille, buf: make([]byte, 0, g.FileSize())}
}

// Reset starts another object in the same buffer.
func (w *Writer) Reset(id Ident) {
	w.id, w.buf, w.stream, w.done = id, w.buf[:0], 0, false
}

// Len is the length of the stream so far.
func (w *Writer) Len() int { return w.stream }

// Write appends to the stream: all of p, or nothing and ErrTooLong.
func (w *Writer) Write(p []byte) (int, error) {
	if w.done {
		panic("cell: Write after Finish")
	}
	if len(p) > MaxStream-w.stream {
		return 0, ErrTooLong
	}
	w.grow(dataCells(w.stream + len(p)))
	for rest := p; len(rest) > 0; {
		ordinal, in := w.stream/Payload, w.stream%Payload
		n := copy(w.buf[ordinal*Size+in:ordinal*Size+Payload], rest)
		rest = rest[n:]
		w.stream += n
	}
	return len(p), nil
}

// grow makes the buffer that many cells long. What a new cell holds is whatever an earlier object left there: payloads
// are overwritten by the stream, by padding or by parity, trailers by trailers.
func (w *Writer) grow(cells int) {
	if n := cells * Size; n > cap(w.buf) {
		bigger := make([]byte, n, max(n, min(2*cap(w.buf), MaxStream/Payload*Size)))
		copy(bigger, w.buf)
		w.buf = bigger
	} else if n > len(w.buf) {
		w.buf = w.buf[:n]
	}
}

// Read copies len(dst) bytes of the stream, from off on, out of the cells: what will be written, not what was given.
func (w *Writer) Read(dst []byte, off int) {
	if off < 0 || off+len(dst) > w.stream {
		panic("cell: Read past the stream")
	}
	start, _ := StreamSpan(off, len(dst))
	Strip(dst, w.buf[start:], off, len(dst))
}

// Finish returns the whole file, valid until Reset.
func (w *Writer) Finish() ([]byte, error) {
	if w.done {
		panic("cell: Finish after Finish")
	}
	w.done = true
	g := geometryOf(w.id, w.permille, w.stream)
	w.grow(g.Cells())
	last := (g.N - 1) * Size
	clear(w.buf[last+w.stream-(g.N-1)*Payload : last+Payload])
	if err := encode(g, w.payloads(g.Cells())); err != nil {
		return nil, fmt.Errorf("parity of %d+%d cells: %w", g.N, g.M, err)
	}
	for i := range g.Cells() {
		putTrailer(w.buf[i*Size:(i+1)*Size], g, i)
	}
	return w.buf, nil
}

func (w *Writer) payloads(cells int) [][]byte {
	if cap(w.shards) < cells {
		w.shards = make([][]byte, cells)
	}
	w.shards = w.shards[:cells]
	for i := range w.shards {
		w.shards[i] = payload(w.buf, i)
	}
	return w.shards
}

// payload is the i-th one of a file.
func payload(file []byte, i int) []byte { return file[i*Size : i*Size+Payload : i*Size+Payload] }
