package stripe

import "sync"

// memory keeps shards' buffers between creates, of whatever store: pages that are new to the process cost more than what is
// written into them.
var memory buffers

type buffers struct{ pool sync.Pool }

// take gives n buffers of size bytes in one piece, and what gives them back.
func (b *buffers) take(n int, size int64) (list [][]byte, free func()) {
	all, _ := b.pool.Get().(*[]byte)
	if all == nil || int64(cap(*all)) < int64(n)*size {
		fresh := make([]byte, int64(n)*size)
		all = &fresh
	}
	whole := (*all)[:int64(n)*size]
	for i := range int64(n) {
		list = append(list, whole[i*size:(i+1)*size:(i+1)*size])
	}
	return list, func() { b.pool.Put(all) }
}
