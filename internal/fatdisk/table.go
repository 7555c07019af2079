package fatdisk

import (
	"encoding/binary"
	"fmt"
)

const (
	firstCluster = 2
	free         = 0x0000
	endOfChain   = 0xFFFF
	lastInChain  = 0xFFF8 // this and above end a chain
)

func (d *Disk) set(c, value uint16) {
	d.table[c] = value
	if d.stale == nil {
		d.stale = map[int]bool{}
	}
	d.stale[int(c)*2/sector] = true
}

// flush writes the changed sectors of the FAT, in both copies.
func (d *Disk) flush() error {
	for s := range d.stale {
		p := make([]byte, sector)
		for i := range sector / 2 {
			if c := s*sector/2 + i; c < len(d.table) {
				binary.LittleEndian.PutUint16(p[2*i:], d.table[c])
			}
		}
		for n := range copies {
			if err := d.write(p, d.vol.fatOff(n)+int64(s)*sector); err != nil {
				return err
			}
		}
	}
	clear(d.stale)
	return nil
}

// allocate links n free clusters into a chain. It takes what is free in order, so that a new file fills the holes
// that removed ones left: samples get fragments as real disks do.
func (d *Disk) allocate(n int) ([]uint16, error) {
	var chain []uint16
	for range d.vol.clusters {
		if len(chain) == n {
			break
		}
		if d.table[d.next] == free {
			chain = append(chain, d.next)
		}
		if d.next++; int(d.next) >= len(d.table) {
			d.next = firstCluster
		}
	}
	if len(chain) < n {
		return nil, fmt.Errorf("%d clusters wanted, %d left: %w", n, len(chain), ErrFull)
	}
	for i, c := range chain {
		link := uint16(endOfChain)
		if i+1 < len(chain) {
			link = chain[i+1]
		}
		d.set(c, link)
	}
	return chain, nil
}

// chain follows a chain from its first cluster. A chain that is longer than the volume runs in a circle.
func (d *Disk) chain(first uint16) ([]uint16, error) {
	var chain []uint16
	for c := first; c < lastInChain; c = d.table[c] {
		if c < firstCluster || int(c) >= len(d.table) || len(chain) > d.vol.clusters {
			return nil, fmt.Errorf("the chain from cluster %d breaks at cluster %d", first, c)
		}
		chain = append(chain, c)
	}
	return chain, nil
}

// release frees a chain. The clusters keep their content, as on every real disk.
func (d *Disk) release(first uint16) error {
	if first == 0 {
		return nil
	}
	chain, err := d.chain(first)
	if err != nil {
		return err
	}
	for _, c := range chain {
		d.set(c, free)
	}
	return nil
}

// FreeBytes is the room left for content, in bytes.
func (d *Disk) FreeBytes() int64 {
	n := int64(0)
	for _, v := range d.table[firstCluster:] {
		if v == free {
			n++
		}
	}
	return n * d.vol.clusterSize()
}
