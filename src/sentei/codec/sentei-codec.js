/* Reads packed model files in a web page or in Node: one file, no dependencies.
 *
 *   <script src="sentei-codec.js">   in a page;   const SenteiCodec = require("./sentei-codec.js") in Node
 *   const model = SenteiCodec.unpack(new Uint8Array(await (await fetch(url)).arrayBuffer()));
 *
 * `unpack(bytes)` gives the original file, checked against its SHA-256; `open(bytes)` gives the header
 * and reads single pieces. Both throw a `SenteiCodec.CorruptFile` for damaged input. The format is
 * described in docs/format.md; the names here are those of its sections. Apache-2.0.
 */
"use strict";
const SenteiCodec = (() => {
  class CorruptFile extends Error {
    constructor(message) {
      super("not a sound packed file: " + message);
      this.name = "CorruptFile";
    }
  }
  const fail = (message) => { throw new CorruptFile(message); };

  // -- reading bytes ------------------------------------------------------------------------------

  class Cursor {
    constructor(bytes) { this.bytes = bytes; this.place = 0; }
    get left() { return this.bytes.length - this.place; }
    take(count) {
      if (count > this.left) fail("it ends too early");
      this.place += count;
      return this.bytes.subarray(this.place - count, this.place);
    }
    byte() {
      if (this.place >= this.bytes.length) fail("it ends too early");
      return this.bytes[this.place++];
    }
    fixed() { const b = this.take(4); return (b[0] | b[1] << 8 | b[2] << 16 | b[3] << 24) >>> 0; }
    varint(limit = Number.MAX_SAFE_INTEGER) {
      let value = 0, unit = 1;
      for (let i = 0; i < 9; i++) {
        const byte = this.byte();
        value += (byte & 127) * unit;
        unit *= 128;
        if (byte < 128) {
          if (value > limit) fail("a number is above its limit");
          return value;
        }
      }
      return fail("a number does not end");
    }
    finish() {
      for (let i = this.place; i < this.bytes.length; i++) if (this.bytes[i]) fail("bytes are left over");
    }
  }

  const CRC = new Uint32Array(256).map((_, n) => {
    for (let k = 0; k < 8; k++) n = n & 1 ? 0xEDB88320 ^ n >>> 1 : n >>> 1;
    return n;
  });
  function crc32(bytes) {
    let crc = -1;
    for (let i = 0; i < bytes.length; i++) crc = CRC[(crc ^ bytes[i]) & 255] ^ crc >>> 8;
    return ~crc >>> 0;
  }

  const ROUND = [], INITIAL = [];
  for (let n = 2; ROUND.length < 64; n++) {
    let prime = true;
    for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false;
    if (!prime) continue;
    if (INITIAL.length < 8) INITIAL.push(n ** 0.5 % 1 * 2 ** 32 | 0);
    ROUND.push(n ** (1 / 3) % 1 * 2 ** 32 | 0);
  }
  function sha256(bytes) {
    const h = Int32Array.from(INITIAL), w = new Int32Array(64), size = bytes.length;
    const tail = new Uint8Array((size % 64 < 56 ? 64 : 128));
    const whole = size - size % 64;
    tail.set(bytes.subarray(whole));
    tail[size - whole] = 128;
    const view = new DataView(tail.buffer);
    view.setUint32(tail.length - 8, Math.floor(size / 2 ** 29));
    view.setUint32(tail.length - 4, size << 3);
    const block = (data, at) => {
      for (let i = 0; i < 16; i++, at += 4) {
        w[i] = data[at] << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3];
      }
      for (let i = 16; i < 64; i++) {
        const x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + ((x >>> 7 | x << 25) ^ (x >>> 18 | x << 14) ^ x >>> 3)
          + ((y >>> 17 | y << 15) ^ (y >>> 19 | y << 13) ^ y >>> 10) | 0;
      }
      let [a, b, c, d, e, f, g, k] = h;
      for (let i = 0; i < 64; i++) {
        const one = k + ((e >>> 6 | e << 26) ^ (e >>> 11 | e << 21) ^ (e >>> 25 | e << 7))
          + (e & f ^ ~e & g) + ROUND[i] + w[i] | 0;
        const two = ((a >>> 2 | a << 30) ^ (a >>> 13 | a << 19) ^ (a >>> 22 | a << 10))
          + (a & b ^ a & c ^ b & c) | 0;
        k = g; g = f; f = e; e = d + one | 0; d = c; c = b; b = a; a = one + two | 0;
      }
      h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e; h[5] += f; h[6] += g; h[7] += k;
    };
    for (let at = 0; at < whole; at += 64) block(bytes, at);
    for (let at = 0; at < tail.length; at += 64) block(tail, at);
    const result = new DataView(new ArrayBuffer(32));
    h.forEach((word, i) => result.setInt32(4 * i, word));
    return new Uint8Array(result.buffer);
  }

  // -- container ----------------------------------------------------------------------------------

  const MAGIC = [0x93, 0x53, 0x54, 0x5A, 0x0D, 0x0A, 0x1A, 0x0A];

  function readHeader(bytes) {
    const cursor = new Cursor(bytes);
    MAGIC.forEach((byte) => { if (cursor.byte() !== byte) fail("its mark is missing"); });
    const version = cursor.varint(), features = cursor.varint();
    if (version !== 1 || features > 1) {
      fail(`it is of version ${version}, features ${features}: a later reader is needed`);
    }
    const length = cursor.varint(2 ** 28);
    const begin = cursor.place, end = begin + length + 4;
    if (end > bytes.length) fail("it ends within its header");
    const check = new Cursor(bytes.subarray(end - 4, end)).fixed();
    if (crc32(bytes.subarray(0, end - 4)) !== check) fail("its header does not match its checksum");
    const body = new Cursor(bytes.subarray(begin, end - 4));
    const size = body.varint(), digest = body.take(32).slice();
    const skeleton = { offset: 0, size: 0, codedOffset: end, codedSize: body.varint(), check: body.fixed() };
    const count = body.varint(Math.floor(body.left / 7)), pieces = [];
    let place = 0, coded = end + skeleton.codedSize, inPieces = 0;
    for (let i = 0; i < count; i++) {
      const offset = place + body.varint();
      const piece = { offset, size: body.varint(), codedOffset: coded, codedSize: body.varint(), check: body.fixed() };
      place = offset + piece.size;
      coded += piece.codedSize;
      inPieces += piece.size;
      pieces.push(piece);
    }
    if (body.left || place > size) fail("its header does not add up");
    skeleton.size = size - inPieces;
    for (const piece of [skeleton, ...pieces]) {
      if (piece.size > piece.codedSize * 4096 + 65536) fail("its header claims too much");
    }
    if (coded !== bytes.length) fail(`it has ${bytes.length} bytes, not ${coded}`);
    return { version, size, digest, skeleton, pieces };
  }

  function payload(bytes, piece) {
    const found = bytes.subarray(piece.codedOffset, piece.codedOffset + piece.codedSize);
    if (crc32(found) !== piece.check) fail(`the part at byte ${piece.codedOffset} does not match its checksum`);
    return found;
  }

  const readPiece = (bytes, piece) => (piece.size ? decodePiece(payload(bytes, piece), piece.size, false)
    : (new Cursor(payload(bytes, piece)).finish(), new Uint8Array(0)));

  function open(bytes) {
    const header = readHeader(bytes);
    return { ...header, read: (index) => readPiece(bytes, header.pieces[index]) };
  }

  function unpack(bytes) {
    const header = readHeader(bytes), between = readPiece(bytes, header.skeleton);
    const result = new Uint8Array(header.size);
    let place = 0, used = 0;
    for (const piece of header.pieces) {
      const gap = piece.offset - place;
      result.set(between.subarray(used, used + gap), place);
      result.set(readPiece(bytes, piece), piece.offset);
      used += gap;
      place = piece.offset + piece.size;
    }
    result.set(between.subarray(used), place);
    const digest = sha256(result);
    if (digest.some((byte, i) => byte !== header.digest[i])) fail("its contents do not match their SHA-256");
    return result;
  }

  // -- pieces -------------------------------------------------------------------------------------

  function decodePiece(bytes, size, nested) {
    const cursor = new Cursor(bytes), method = cursor.byte();
    if (method === 0) {
      const data = cursor.take(size);
      cursor.finish();
      return data;
    }
    if (method === 1) return inflate(cursor, size);
    if (method === 2) return lzma(cursor, size);
    if (method === 3) return decodeSymbols(cursor, size);
    if (method === 4 && !nested) return decodePlanes(cursor, size);
    return fail(`it is coded with the unknown method ${method}`);
  }

  function decodeSymbols(cursor, size) {
    const unit = cursor.byte();
    if (![0, 1, 2, 4, 8].includes(unit)) fail("a tensor has an unknown unit");
    const { alphabet, values } = readValues(cursor, unit);
    const rank = cursor.varint(8), shape = [], axes = [];
    for (let i = 0; i < rank; i++) { shape.push(cursor.varint(2 ** 40)); axes.push(cursor.byte()); }
    if (!rank || [...axes].sort((a, b) => a - b).some((axis, i) => axis !== i)) fail("a tensor's axes are wrong");
    const count = shape.reduce((a, b) => a * b, 1);
    const fits = unit ? count === size / unit : count === 2 * size || count === 2 * size - 1;
    if (!count || !fits) fail("a tensor does not fill its bytes");
    let symbols;
    if (alphabet.size === 1) symbols = new Uint8Array(count);
    else {
      const coder = cursor.byte();
      if (coder === 0) symbols = decodeStatic(cursor, count, alphabet);
      else if (coder <= 2) symbols = decodeMixed(cursor.take(cursor.left), count, alphabet, shape, coder === 2);
      else fail("a tensor has an unknown coder");
    }
    cursor.finish();
    const places = turned(shape, axes, symbols);
    if (unit === 0) {
      const result = new Uint8Array(size);
      for (let i = 0; i < count; i++) result[i >> 1] |= values[places[i]] << (i & 1 ? 4 : 0);
      return result;
    }
    const result = new Uint8Array(size);
    if (unit === 1) for (let i = 0; i < count; i++) result[i] = values[places[i]];
    else {
      for (let i = 0, at = 0; i < count; i++) {
        const from = places[i] * unit;
        for (let k = 0; k < unit; k++) result[at++] = values[from + k];
      }
    }
    return result;
  }

  function readValues(cursor, unit) {
    const size = cursor.varint(256), centre = cursor.byte(), kind = cursor.byte();
    if (centre >= size) fail("the centre is no symbol");
    const width = Math.max(unit, 1);
    let values;
    if (kind === 0) values = cursor.take(size * width);
    else if (unit <= 1 && (kind === 1 || kind === 2)) {
      const first = cursor.byte(), found = [];
      if (kind === 1) for (let i = 0; i < size; i++) found.push(first + i & 255);
      else {
        cursor.take(cursor.varint(32)).forEach((byte, i) => {
          for (let k = 0; k < 8; k++) if (byte >> k & 1) found.push(first + 8 * i + k & 255);
        });
      }
      values = Uint8Array.from(found);
    } else fail("a tensor's values are listed in an unknown way");
    if (values.length !== size * width || (unit === 0 && values.some((v) => v > 15))) fail("a tensor's values are wrong");
    return { alphabet: { size, centre }, values };
  }

  /* From the order of the scan to that of the file. */
  function turned(shape, axes, symbols) {
    if (axes.every((axis, i) => axis === i)) return symbols;
    const rank = shape.length, strides = new Array(rank), bySize = new Array(rank);
    axes.forEach((axis, i) => { bySize[axis] = shape[i]; });
    for (let axis = rank - 1, unit = 1; axis >= 0; axis--) { strides[axis] = unit; unit *= bySize[axis]; }
    const steps = axes.map((axis) => strides[axis]), index = new Array(rank).fill(0);
    const result = new Uint8Array(symbols.length), inner = shape[rank - 1], step = steps[rank - 1];
    for (let i = 0, base = 0; i < symbols.length;) {
      for (let k = 0, at = base; k < inner; k++, at += step) result[at] = symbols[i++];
      for (let axis = rank - 2; axis >= 0; axis--) {
        base += steps[axis];
        if (++index[axis] < shape[axis]) break;
        base -= steps[axis] * shape[axis];
        index[axis] = 0;
      }
    }
    return result;
  }

  function decodePlanes(cursor, size) {
    const unit = cursor.byte(), flags = cursor.byte(), count = size / unit;
    if (![2, 4, 8].includes(unit) || flags > 7 || size % unit) fail("planes of an unknown kind");
    const rotated = flags & 1, differences = flags & 2, elided = flags & 4, planes = [];
    for (let i = 0; i < unit; i++) {
      const length = cursor.varint(count), coded = cursor.take(cursor.varint());
      if (length !== count && (i === 0 || !elided)) fail("a plane has the wrong size");
      planes.push(length ? decodePiece(coded, length, true) : new Uint8Array(0));
    }
    cursor.finish();
    let kept = count;
    if (elided) {
      kept = 0;
      for (let i = 0; i < count; i++) if (planes[0][i]) kept++;
    }
    for (let i = 1; i < unit; i++) if (planes[i].length !== kept) fail("a plane does not fit the one above it");
    const result = new Uint8Array(size);
    for (let i = 0, k = 0, at = 0; i < count; i++, at += unit) {
      const top = planes[0][i];
      if (elided && !top) continue;
      result[at + unit - 1] = top;
      for (let p = 1; p < unit; p++) result[at + unit - 1 - p] = planes[p][k];
      if (rotated) {
        const sign = result[at] & 1;
        for (let b = 0; b < unit; b++) {
          const above = b < unit - 1 ? result[at + b + 1] & 1 : sign;
          result[at + b] = result[at + b] >> 1 | above << 7;
        }
      }
      k++;
    }
    if (differences) {
      for (let at = unit; at < size; at += unit) {
        for (let b = 0, carry = 0; b < unit; b++) {
          carry += result[at + b] + result[at - unit + b];
          result[at + b] = carry;
          carry >>= 8;
        }
      }
    }
    return result;
  }

  // -- the binary coder ---------------------------------------------------------------------------

  const KNOTS = [22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768,
    40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514];
  const SQUASH = Int32Array.from({ length: 4096 }, (_, i) => {
    const left = i >> 7, weight = i & 127;
    return KNOTS[left] * (128 - weight) + KNOTS[left + 1] * weight + 64 >> 7;
  });
  const STRETCH = Int32Array.from({ length: 4096 }, (_, i) => {
    let low = 0, high = 4096;
    while (low < high) { const middle = low + high >> 1; if (SQUASH[middle] < i * 16 + 8) low = middle + 1; else high = middle; }
    return Math.min(low, 4095) - 2048;
  });

  class BinaryDecoder {
    constructor(bytes) {
      this.bytes = bytes; this.low = 0; this.high = 0xFFFFFFFF; this.place = 0; this.value = 0;
      for (let i = 0; i < 4; i++) this.value = this.value * 256 + this.next();
    }
    next() { return this.place < this.bytes.length ? this.bytes[this.place++] : 0; }
    decode(one) {
      const middle = this.low + Math.floor((this.high - this.low) * one / 65536);
      const bit = this.value <= middle ? 1 : 0;
      if (bit) this.high = middle; else this.low = middle + 1;
      while ((this.low ^ this.high) >>> 24 === 0) {
        this.low = this.low << 8 >>> 0;
        this.high = (this.high << 8 | 255) >>> 0;
        this.value = (this.value << 8 | this.next()) >>> 0;
      }
      return bit;
    }
  }

  class NumberDecoder {
    constructor(bytes) { this.coder = new BinaryDecoder(bytes); this.models = new Map(); }
    read(bits, kind, context = 0) {
      let node = 1;
      for (let i = 0; i < bits; i++) {
        const key = (kind * 256 + context) * 512 + node;
        let model = this.models.get(key);
        if (!model) this.models.set(key, model = [32768, 1]);
        const bit = this.coder.decode(model[0]), [one, shift] = model;
        const moved = bit ? one + (65536 - one >> shift) : one - (one >> shift);
        model[0] = Math.min(Math.max(moved, 32), 65504);
        model[1] = Math.min(shift + 1, 5);
        node = 2 * node + bit;
      }
      return node - 2 ** bits;
    }
  }

  // -- static streams -----------------------------------------------------------------------------

  const CLASS = (symbol, centre) => (symbol === centre ? 0 : symbol < centre ? 1 : 2);
  const bitLength = (n) => 32 - Math.clz32(n);

  function decodeStatic(cursor, count, alphabet) {
    const first = cursor.byte(), precision = 12 + (first & 3), curved = first & 4, signMode = first >> 3 & 3;
    if (precision > 14 || signMode > 2 || first >= 64) fail("a stream has unknown flags");
    const far = cursor.varint(2 ** 24), near = cursor.varint(2 ** 24), lanes = cursor.varint(count);
    if (!lanes) fail("a stream has no lanes");
    let groups = 1, stride = 1, axis = 1;
    if (first & 32) {
      groups = cursor.varint(16); stride = cursor.varint(count); axis = cursor.varint(count);
      if (groups < 2 || !stride || !axis) fail("a stream has groups of nothing");
    }
    const contexts = (far ? 3 : 1) * (near ? 3 : 1);
    if (groups * contexts * 2 ** precision > 64 * count + 65536) fail("the tables of a stream outweigh its symbols");
    const side = new NumberDecoder(cursor.take(cursor.varint())), words = cursor.varint();
    const ids = new Uint8Array(axis);
    if (groups > 1) {
      for (let i = 0, last = 0; i < axis; i++) {
        last = ids[i] = side.read(bitLength(groups - 1), 0, last);
        if (last >= groups) fail("a group that is none");
      }
    }
    const slots = groups * contexts << precision;
    const rates = new Uint32Array(slots), marks = new Uint16Array(slots);
    for (let group = 0; group < groups; group++) {
      const base = curved ? curve(side, alphabet) : listed(side, alphabet);
      const zeros = [], signs = new Array(contexts).fill(128);
      for (let c = 0; c < contexts; c++) zeros.push(side.read(8, 4));
      if (signMode === 1) signs.fill(side.read(8, 5));
      else if (signMode === 2) for (let c = 0; c < contexts; c++) signs[c] = side.read(8, 5);
      for (let c = 0; c < contexts; c++) {
        const row = table(base, alphabet, zeros[c], signs[c], precision);
        let slot = group * contexts + c << precision;
        for (let s = 0; s < alphabet.size; s++) {
          const mark = CLASS(s, alphabet.centre) << 8 | s;
          for (let k = 0; k < row[s]; k++, slot++) { rates[slot] = (row[s] << 16 | k) >>> 0; marks[slot] = mark; }
        }
      }
    }
    return walk(cursor, { count, lanes, words, far, near, precision, contexts, groups, stride, ids, rates, marks });
  }

  function listed(side, alphabet) {
    const base = new Array(alphabet.size).fill(0);
    for (let s = 0, last = 0; s < alphabet.size; s++) {
      if (s === alphabet.centre) continue;
      last = Math.min(side.read(7, 1, last >> 3), 96);
      base[s] = last ? 8 + (last - 1) % 8 << (last - 1 >> 3) : 0;
    }
    return base;
  }

  function curve(side, alphabet) {
    let ratio = SQUASH[side.read(8, 2) * 16], weight = 2 ** 30;
    const bent = side.read(8, 3) - 128, bend = 65536 + bent * Math.abs(bent) * 2;
    const far = Math.max(alphabet.centre, alphabet.size - 1 - alphabet.centre), byMagnitude = [0];
    for (let m = 1; m <= far; m++) {
      byMagnitude.push(Math.max(Math.floor(weight / 32768), 1));
      weight = Math.min(Math.floor(weight * ratio / 65536), 2 ** 30);
      ratio = Math.min(Math.floor(ratio * bend / 65536), 2 ** 17);
    }
    return Array.from({ length: alphabet.size }, (_, s) => byMagnitude[Math.abs(s - alphabet.centre)]);
  }

  function table(base, alphabet, zeroCode, signCode, precision) {
    const { size, centre } = alphabet, zero = SQUASH[zeroCode * 16];
    let negative = SQUASH[signCode * 16], below = 0, above = 0;
    for (let s = 0; s < size; s++) if (s < centre) below += base[s]; else if (s > centre) above += base[s];
    if (!above) negative = 65536;
    if (!below) negative = 0;
    const weights = new Array(size);
    let total = 0, present = 0, largest = 0;
    for (let s = 0; s < size; s++) {
      if (s === centre) weights[s] = zero * 65536;
      else {
        const share = (65536 - zero) * (s < centre ? negative : 65536 - negative);
        weights[s] = base[s] ? Math.max(Math.floor(share * base[s] / (s < centre ? below : above)), 1) : 0;
      }
      total += weights[s];
      if (weights[s]) present++;
      if (weights[s] > weights[largest]) largest = s;
    }
    const whole = 2 ** precision;
    let left = whole;
    const result = weights.map((weight) => {
      const frequency = weight ? 1 + Math.floor(weight * (whole - present) / total) : 0;
      left -= frequency;
      return frequency;
    });
    result[largest] += left;
    return result;
  }

  function walk(cursor, stream) {
    const { count, lanes, far, near, precision, contexts, groups, stride, ids, rates, marks } = stream;
    const steps = Math.ceil(count / lanes), size = lanes * steps, mask = 2 ** precision - 1;
    const states = new Uint32Array(lanes);
    for (let lane = 0; lane < lanes; lane++) if ((states[lane] = cursor.fixed()) < 65536) fail("an impossible state");
    const raw = cursor.take(2 * stream.words), words = new Uint16Array(stream.words + 1);
    for (let i = 0; i < stream.words; i++) words[i] = raw[2 * i] | raw[2 * i + 1] << 8;
    const symbols = new Uint8Array(size), classes = new Uint8Array(size), unit = near ? 3 : 1;
    let starts = null;
    if (groups > 1) {
      starts = new Uint16Array(size);
      for (let i = 0, index = 0, inside = 0; i < size; i++) {
        starts[i] = ids[index] * contexts;
        if (++inside === stride) { inside = 0; if (++index === ids.length) index = 0; }
      }
    }
    let word = 0;
    for (let step = 0; step < steps; step++) {
      const seesNear = near > 0 && step >= near, seesFar = far > 0 && step >= far;
      for (let lane = 0, at = step; lane < lanes; lane++, at += steps) {
        let number = starts === null ? 0 : starts[at];
        if (seesNear) number += classes[at - near];
        if (seesFar) number += unit * classes[at - far];
        let state = states[lane];
        const slot = number << precision | state & mask, rate = rates[slot], mark = marks[slot];
        symbols[at] = mark;
        classes[at] = mark >> 8;
        state = Math.imul(rate >>> 16, state >>> precision) + (rate & 65535) >>> 0;
        if (state < 65536) {
          if (word >= stream.words) fail("a stream has too few words");
          state = (state << 16 | words[word++]) >>> 0;
        }
        states[lane] = state;
      }
    }
    if (word !== stream.words || states.some((state) => state !== 65536)) fail("a stream does not end where it must");
    return symbols.subarray(0, count);
  }

  // -- mixed streams ------------------------------------------------------------------------------

  const DENSITIES = 12, MOST = 250, EXPECTED = 32, STEPS = 33;
  const RATES = Int32Array.from({ length: MOST + 1 }, (_, n) => Math.floor((32768 + Math.floor((n + 2) / 2)) / (n + 2)));
  // First weights of the deep coder's inputs: for whether a symbol is the centre, its sign, its size.
  const ZERO = [-4915, 3277, 4096, -1638, 2458, 12288, 1638, 819, 1638, 2458, 1500, 1500];
  const SIGN = [819, 6554, 0, 1311, 983, 4096, 328, 0, 3277, 6554, 0, 0];
  const SIZE = [0, 1966, 2294, 0, 819, 4096, 1311, 0, 4096, 3277, 0, 0];

  function threeAxes(shape) {
    const sizes = [...shape];
    while (sizes.length > 3) {
      let best = 0;
      for (let i = 1; i + 1 < sizes.length; i++) if (sizes[i] * sizes[i + 1] < sizes[best] * sizes[best + 1]) best = i;
      sizes.splice(best, 2, sizes[best] * sizes[best + 1]);
    }
    if (sizes.length === 2) sizes.splice(1, 0, 1);
    while (sizes.length < 3) sizes.unshift(1);
    return sizes;
  }

  function firstWeights(deep) {
    if (!deep) return new Int32Array(16 * (1 + DENSITIES) * 8).fill(1966);
    const result = [];
    for (const times of [1, DENSITIES, EXPECTED]) {
      for (let node = 0; node < 24; node++) for (let i = 0; i < times; i++) result.push(...(node === 0 ? ZERO : node === 1 ? SIGN : SIZE));
    }
    return Int32Array.from(result);
  }

  function decodeMixed(bytes, count, alphabet, shape, deep) {
    const inputs = deep ? 12 : 8, nodes = deep ? 24 : 16;
    const [outer, middle, inner] = threeAxes(shape), { size, centre } = alphabet;
    const shifts = [outer, middle, inner].map((n) => Math.max(0, bitLength(n - 1) - 12));
    const indices = [outer, middle, inner].map((n, i) => (n - 1 >> shifts[i]) + 1);
    const starts = [0];
    const contexts = [1, 27, 125, ...indices, 28, 9 * indices[1]];
    if (deep) contexts.push(124, 289, 8 * indices[2], 8 * indices[2]);
    contexts.forEach((n, i) => starts.push(starts[i] + n * nodes));
    const ones = new Int32Array(starts[inputs]).fill(32768), counts = new Uint8Array(starts[inputs]);
    const weights = firstWeights(deep), values = new Int16Array(deep ? count + 1 : 0);
    const refined = Int32Array.from({ length: deep ? 24 * EXPECTED * STEPS : 0 }, (_, i) => SQUASH[Math.min(i % STEPS * 128, 4095)]);
    let chosen = 0;
    const trees = new Int32Array(9 * 128).fill(32768), seen = new Uint8Array(9 * 128);
    const kinds = new Uint8Array(count + 1), sizes = new Uint8Array(count + 1), symbols = new Uint8Array(count);
    const bases = new Int32Array(inputs), odds = new Int32Array(inputs), coder = new BinaryDecoder(bytes);
    const learn = (bit, place, table, times) => {
      const n = times[place], one = table[place];
      const moved = one + ((65535 * bit - one) * RATES[n] + 16384 >> 15);
      table[place] = moved < 16 ? 16 : moved > 65519 ? 65519 : moved;
      if (n < MOST) times[place] = n + 1;
    };
    // With twelve inputs a sum may leave 32 bits.
    const down = (x) => Math.floor(x / 16384);
    const clamp = (x) => (x < -2047 ? -2047 : x > 2047 ? 2047 : x);
    const heavy = (x) => (x < -98304 ? -98304 : x > 98304 ? 98304 : x);
    const mixed = (node, density) => {
      const first = node * inputs, second = (nodes + node * DENSITIES + density) * inputs;
      const third = deep ? (nodes * (1 + DENSITIES) + node * EXPECTED + chosen) * inputs : 0;
      const start = ones[bases[0] + node];
      let one = 0, two = 0, three = 0, chance, cell = 0;
      for (let i = 0; i < inputs; i++) {
        const place = bases[i] + node;
        if (counts[place] === 0) ones[place] = start;
        const odd = odds[i] = STRETCH[ones[place] >> 4];
        one += weights[first + i] * odd;
        two += weights[second + i] * odd;
        if (deep) three += weights[third + i] * odd;
      }
      one = clamp(down(one)); two = clamp(down(two));
      if (deep) {
        three = clamp(down(three));
        const mix = Math.floor((one + two + three) / 3) + 2048, part = mix & 127;
        cell = (node * EXPECTED + chosen) * STEPS + (mix >> 7);
        chance = SQUASH[mix] + (refined[cell] * (128 - part) + refined[cell + 1] * part >> 7) >> 1;
        cell += part >> 6;
      } else chance = SQUASH[(one + two >> 1) + 2048];
      const bit = coder.decode(Math.min(Math.max(chance, 32), 65504)), rate = deep ? 18 : 30;
      const wrong = (sum) => ((bit << 12) - (SQUASH[sum + 2048] >> 4)) * rate;
      const errorOne = wrong(one), errorTwo = wrong(two), errorThree = wrong(three);
      if (deep) refined[cell] += 65535 * bit - refined[cell] >> 7;
      for (let i = 0; i < inputs; i++) {
        weights[first + i] = heavy(weights[first + i] + (odds[i] * errorOne + 131072 >> 18));
        weights[second + i] = heavy(weights[second + i] + (odds[i] * errorTwo + 131072 >> 18));
        if (deep) weights[third + i] = heavy(weights[third + i] + (odds[i] * errorThree + 131072 >> 18));
        learn(bit, bases[i] + node, ones, counts);
      }
      return bit;
    };
    const below = centre, above = size - 1 - centre, largest = Math.max(below, above), none = count;
    const rows = inner, planes = inner * middle;
    let a = 0, b = 0, c = 0;
    for (let place = 0; place < count; place++) {
      const in1 = c > 0 ? place - 1 : none, in2 = c > 1 ? place - 2 : none, in3 = c > 2 ? place - 3 : none;
      const mid1 = b > 0 ? place - rows : none, mid2 = b > 1 ? place - 2 * rows : none, mid3 = b > 2 ? place - 3 * rows : none;
      const out1 = a > 0 ? place - planes : none, out2 = a > 1 ? place - 2 * planes : none;
      const midIn = b > 0 && c > 0 ? place - rows - 1 : none, outIn = a > 0 && c > 0 ? place - planes - 1 : none;
      const outMid = a > 0 && b > 0 ? place - planes - rows : none;
      const nearby = sizes[in1] + sizes[mid1] + sizes[out1];
      const distant = sizes[in2] + sizes[mid2] + sizes[out2] + sizes[midIn] + sizes[outIn] + sizes[outMid];
      const row = b >> shifts[1];
      bases[1] = starts[1] + nodes * (kinds[in1] * 9 + kinds[mid1] * 3 + kinds[out1]);
      bases[2] = starts[2] + nodes * (Math.min(sizes[in1], 4) * 25 + Math.min(sizes[mid1], 4) * 5 + Math.min(sizes[out1], 4));
      bases[3] = starts[3] + nodes * (a >> shifts[0]);
      bases[4] = starts[4] + nodes * row;
      bases[5] = starts[5] + nodes * (c >> shifts[2]);
      bases[6] = starts[6] + nodes * Math.min(nearby + (distant >> 1), 27);
      bases[7] = starts[7] + nodes * (row * 9 + kinds[in1] * 3 + kinds[out1]);
      if (deep) {
        const outUp = a > 0 && b + 1 < middle ? place - planes + rows : none, column = 8 * (c >> shifts[2]);
        let total = 0, known = 0;
        for (const at of [mid1, out1, outMid, outUp]) if (kinds[at]) { total += values[at]; known++; }
        const expected = Math.min(Math.max(known ? Math.floor((2 * total + known) / (2 * known)) : 0, -15), 15);
        const level = (at) => Math.min(Math.max(values[at], -8), 8) + 8;
        bases[8] = starts[8] + nodes * (31 * Math.min(known, 3) + expected + 15);
        bases[9] = starts[9] + nodes * (17 * level(mid1) + level(out1));
        bases[10] = starts[10] + nodes * (column + Math.min(a >> 2, 7));
        bases[11] = starts[11] + nodes * (column + Math.min(b >> 2, 7));
        chosen = Math.min(Math.max(expected, -7), 7) + 7 + (known > 1 ? 16 : 0);
      }
      const some = (at) => (kinds[at] ? 1 : 0);
      const density = some(in1) + some(mid1) + some(out1) + some(in2) + some(mid2) + some(out2) + some(in3)
        + some(mid3) + some(midIn) + some(outIn) + some(outMid);
      if (++c === inner) { c = 0; if (++b === middle) { b = 0; a++; } }
      if (!mixed(0, density)) { symbols[place] = centre; continue; }
      let negative = above === 0 ? 1 : 0;
      if (below && above) negative = mixed(1, density);
      let octave = 1;
      while (octave < 8 && 1 << octave <= largest && mixed(octave + 1, density)) octave++;
      let node = 1;
      for (let level = octave - 2; level >= 0; level--) {
        const tree = octave * 128 + node, fine = deep && octave <= 4;
        const bit = fine ? mixed(7 + node + (1 << octave - 1), density) : coder.decode(trees[tree]);
        if (!fine) learn(bit, tree, trees, seen);
        node = 2 * node + bit;
      }
      const symbol = negative ? centre - node : centre + node;
      if (symbol < 0 || symbol >= size) fail("a symbol that is none");
      symbols[place] = symbol;
      kinds[place] = negative ? 1 : 2;
      sizes[place] = octave;
      if (deep) values[place] = symbol - centre;
    }
    return symbols;
  }

  // -- deflate (RFC 1951) -------------------------------------------------------------------------

  const LENGTHS = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
  const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
  const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

  function huffman(lengths) {
    const counts = new Uint16Array(16), offsets = new Uint16Array(16), symbols = new Uint16Array(lengths.length);
    for (const length of lengths) counts[length]++;
    counts[0] = 0;
    for (let i = 1; i < 16; i++) offsets[i] = offsets[i - 1] + counts[i - 1];
    lengths.forEach((length, symbol) => { if (length) symbols[offsets[length]++] = symbol; });
    return { counts, symbols };
  }

  function inflate(cursor, size) {
    const result = new Uint8Array(size);
    let held = 0, bits = 0, at = 0;
    const read = (count) => {
      while (bits < count) { held |= cursor.byte() << bits; bits += 8; }
      const value = held & (1 << count) - 1;
      held >>>= count;
      bits -= count;
      return value;
    };
    const symbol = ({ counts, symbols }) => {
      for (let length = 1, code = 0, first = 0, index = 0; length < 16; length++) {
        code |= read(1);
        const count = counts[length];
        if (code - count < first) return symbols[index + code - first];
        index += count;
        first = first + count << 1;
        code <<= 1;
      }
      return fail("a code of deflate that is none");
    };
    for (let last = 0; !last;) {
      last = read(1);
      const type = read(2);
      if (type === 3) fail("a block of deflate of an unknown type");
      if (type === 0) {
        held = bits = 0;
        const length = cursor.byte() | cursor.byte() << 8;
        if ((length ^ 65535) !== (cursor.byte() | cursor.byte() << 8)) fail("a stored block of deflate");
        if (at + length > size) fail("it expands too far");
        result.set(cursor.take(length), at);
        at += length;
        continue;
      }
      let literals, distances;
      if (type === 1) {
        literals = huffman(Array.from({ length: 288 }, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8)));
        distances = huffman(new Array(30).fill(5));
      } else {
        const literalCount = read(5) + 257, distanceCount = read(5) + 1, codeCount = read(4) + 4;
        const first = new Array(19).fill(0), lengths = [];
        for (let i = 0; i < codeCount; i++) first[ORDER[i]] = read(3);
        const codes = huffman(first);
        while (lengths.length < literalCount + distanceCount) {
          const code = symbol(codes);
          if (code < 16) { lengths.push(code); continue; }
          if (code === 16 && !lengths.length) fail("a length of deflate repeats nothing");
          const value = code === 16 ? lengths[lengths.length - 1] : 0;
          for (let n = code === 16 ? 3 + read(2) : code === 17 ? 3 + read(3) : 11 + read(7); n; n--) lengths.push(value);
        }
        if (lengths.length > literalCount + distanceCount) fail("too many lengths of deflate");
        literals = huffman(lengths.slice(0, literalCount));
        distances = huffman(lengths.slice(literalCount));
      }
      for (let code = symbol(literals); code !== 256; code = symbol(literals)) {
        if (code < 256) {
          if (at >= size) fail("it expands too far");
          result[at++] = code;
          continue;
        }
        if (code > 285) fail("a length of deflate that is none");
        const length = LENGTHS[code - 257] + read(LENGTH_BITS[code - 257]), far = symbol(distances);
        if (far > 29) fail("a distance of deflate that is none");
        const extra = far < 2 ? 0 : (far >> 1) - 1, base = far < 2 ? far + 1 : (2 + (far & 1) << extra) + 1;
        const distance = base + read(extra);
        if (distance > at || at + length > size) fail("it expands too far");
        for (let n = 0; n < length; n++, at++) result[at] = result[at - distance];
      }
    }
    if (at !== size) fail("it expands too little");
    cursor.finish();
    return result;
  }

  // -- LZMA (without a header) --------------------------------------------------------------------

  function lzma(cursor, size) {
    const properties = cursor.byte(), lc = properties % 9, lp = Math.floor(properties / 9) % 5, pb = Math.floor(properties / 45);
    if (lc + lp > 4 || pb > 4) fail("impossible properties of LZMA");
    const result = new Uint8Array(size), one = (count) => new Uint16Array(count).fill(1024);
    let range = 0xFFFFFFFF, code = 0, at = 0, state = 0, rep0 = 0, rep1 = 0, rep2 = 0, rep3 = 0;
    if (cursor.byte()) fail("LZMA begins wrongly");
    for (let i = 0; i < 4; i++) code = code * 256 + cursor.byte();
    const normalize = () => { if (range < 2 ** 24) { range = range * 256; code = code * 256 + cursor.byte(); } };
    const bit = (models, i) => {
      normalize();
      const bound = (range >>> 11) * models[i];
      if (code < bound) { range = bound; models[i] += 2048 - models[i] >> 5; return 0; }
      range -= bound;
      code -= bound;
      models[i] -= models[i] >> 5;
      return 1;
    };
    const direct = (count) => {
      let value = 0;
      for (; count; count--) {
        normalize();
        range = Math.floor(range / 2);
        const now = code >= range ? 1 : 0;
        if (now) code -= range;
        value = value * 2 + now;
      }
      return value;
    };
    const tree = (models, bits, from = 0) => {
      let node = 1;
      for (let i = 0; i < bits; i++) node = 2 * node + bit(models, from + node);
      return node - (1 << bits);
    };
    const reversed = (models, bits, from) => {
      let node = 1, value = 0;
      for (let i = 0; i < bits; i++) { const now = bit(models, from + node); node = 2 * node + now; value |= now << i; }
      return value;
    };
    const lengthModels = () => ({ choice: one(2), low: one(16 * 8), middle: one(16 * 8), high: one(256) });
    const readLength = (m, position) => {
      if (!bit(m.choice, 0)) return tree(m.low, 3, position * 8);
      if (!bit(m.choice, 1)) return 8 + tree(m.middle, 3, position * 8);
      return 16 + tree(m.high, 8);
    };
    const literal = one(0x300 << lc + lp), isMatch = one(192), isRep = one(12), isRep0 = one(12), isRep1 = one(12);
    const isRep2 = one(12), isLong = one(192), slots = [one(64), one(64), one(64), one(64)], special = one(128), align = one(16);
    const matches = lengthModels(), repeats = lengthModels();
    for (;;) {
      const position = at & (1 << pb) - 1;
      if (at === size && code === 0 && range >= 2 ** 24 && cursor.left === 0) break;
      if (!bit(isMatch, state * 16 + position)) {
        if (at >= size) fail("it expands too far");
        const last = at ? result[at - 1] : 0;
        const from = 0x300 * (((at & (1 << lp) - 1) << lc) + (last >> 8 - lc));
        let node = 1;
        if (state >= 7) {
          let match = result[at - rep0 - 1];
          while (node < 256) {
            const above = match >> 7 & 1, now = bit(literal, from + (1 + above << 8) + node);
            match <<= 1;
            node = 2 * node + now;
            if (above !== now) break;
          }
        }
        while (node < 256) node = 2 * node + bit(literal, from + node);
        result[at++] = node;
        state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
        continue;
      }
      let length;
      if (bit(isRep, state)) {
        if (!at) fail("LZMA repeats nothing");
        if (!bit(isRep0, state)) {
          if (!bit(isLong, state * 16 + position)) {
            if (at >= size || rep0 >= at) fail("it expands too far");
            result[at] = result[at - rep0 - 1];
            at++;
            state = state < 7 ? 9 : 11;
            continue;
          }
        } else {
          let distance;
          if (!bit(isRep1, state)) distance = rep1;
          else {
            if (!bit(isRep2, state)) distance = rep2;
            else { distance = rep3; rep3 = rep2; }
            rep2 = rep1;
          }
          rep1 = rep0;
          rep0 = distance;
        }
        length = readLength(repeats, position);
        state = state < 7 ? 8 : 11;
      } else {
        rep3 = rep2; rep2 = rep1; rep1 = rep0;
        length = readLength(matches, position);
        state = state < 7 ? 7 : 10;
        const slot = tree(slots[Math.min(length, 3)], 6);
        rep0 = slot;
        if (slot >= 4) {
          const bits = (slot >> 1) - 1, base = (2 | slot & 1) * 2 ** bits;
          if (slot < 14) rep0 = base + reversed(special, bits, base - slot);
          else rep0 = base + direct(bits - 4) * 16 + reversed(align, 4, 0);
        }
        if (rep0 === 0xFFFFFFFF) {
          normalize();
          break;
        }
      }
      length += 2;
      if (rep0 >= at || at + length > size) fail("it expands too far");
      for (; length; length--, at++) result[at] = result[at - rep0 - 1];
    }
    if (at !== size) fail("it expands too little");
    cursor.finish();
    return result;
  }

  return { unpack, open, CorruptFile };
})();
if (typeof module !== "undefined") module.exports = SenteiCodec;
