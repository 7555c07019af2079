package vmwaretest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"io"
)

// ciphertext reads a file as a datastore holds an encrypted disk. The host alone has the key, so what comes over HTTP is of no
// use without it; how real hosts encrypt (XTS, with a header of its own) does not matter to a client that cannot decrypt, and
// here it is AES in counter mode, which lets a range begin anywhere.
type ciphertext struct {
	r     io.ReaderAt
	block cipher.Block
	iv    [aes.BlockSize]byte
}

// encrypted wraps a file of an encrypted disk. key is the id of its key, name the file's own, so that no two look alike.
func encrypted(r io.ReaderAt, key, name string) io.ReaderAt {
	sum := sha256.Sum256([]byte("key\x00" + key + "\x00" + name))
	block, err := aes.NewCipher(sum[:16])
	if err != nil {
		panic(err) // sixteen bytes are a key
	}
	c := &ciphertext{r: r, block: block}
	copy(c.iv[:8], sum[16:24])
	return c
}

// ReadAt implements [io.ReaderAt].
func (c *ciphertext) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	iv := c.iv
	binary.BigEndian.PutUint64(iv[8:], uint64(off/aes.BlockSize))
	stream := cipher.NewCTR(c.block, iv[:])
	var skip [aes.BlockSize]byte
	stream.XORKeyStream(skip[:off%aes.BlockSize], skip[:off%aes.BlockSize])
	stream.XORKeyStream(p[:n], p[:n])
	return n, err
}
