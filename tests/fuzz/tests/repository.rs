//! What lies in a region. Sealed structures are fuzzed from the outside, as somebody with access to the bucket would change them,
//! and from the inside, as somebody with a writer's key could write them.

#![allow(clippy::cast_possible_truncation, reason = "seeds are small")]

use breakwater_core::{RepositoryId, SessionId, SnapshotId, SourceUid};
use breakwater_crypto::{ChunkId, Secret, Suite, Voucher, commitment, derive};
use breakwater_fuzz::{Bound, targets};
use breakwater_repository::format::hold::Hold;
use breakwater_repository::format::leaf::{self, Extent, Patch};
use breakwater_repository::format::leaning::Leaning;
use breakwater_repository::format::log::{self, SegmentFooter};
use breakwater_repository::format::lost::{Losses, Lost};
use breakwater_repository::format::manifest::{Fence, Manifest};
use breakwater_repository::format::moved::{Moved, MovedFrames};
use breakwater_repository::format::open::{OpenRecord, SessionKeys, SourceRecord};
use breakwater_repository::format::pack::{
    Footer, FrameContent, KeyKind, PackHeader, PackKey, TRAILER_LENGTH, Trailer,
};
use breakwater_repository::format::record::{RecordKey, RecordKind, read_json};
use breakwater_repository::format::references::{self, ReferenceDecoder, ReferenceEncoder};
use breakwater_repository::format::tombstone::Tombstone;
use breakwater_repository::format::tree::TreeDecoder;
use breakwater_repository::format::verified::{VerifiedPacks, Vouched};
use breakwater_repository::format::{Class, Codec, FrameLocation, ObjectName, PackId, codec, path};

const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 16]);
const SOURCE: SourceUid = SourceUid::from_bytes([2; 16]);
const SESSION: SessionId = SessionId::from_bytes([3; 16]);
const PACK: PackId = PackId { session: SESSION, number: 7 };
const NAME: ObjectName = ObjectName::ContentPack(SOURCE, PACK);

fn key() -> Secret {
    Secret::from_bytes([4; 32])
}

fn location(offset: u32) -> FrameLocation {
    FrameLocation { pack: PACK, offset, stored: 116, plain: 8192, codec: Codec::Zstd, id: ChunkId([offset as u8; 32]) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn leaves() -> Vec<Vec<u8>> {
    let stored = Extent::Stored(location(128));
    let zeros = Extent::Zeros { id: ChunkId([9; 32]), plain: 131_072 };
    let patch = |offset, run_offset| Patch { offset, length: 100, run: location(512), run_offset };
    let patched = Extent::Patched { base: location(256), patches: vec![patch(0, 10), patch(50, 700)] };
    let leaf = |extents: &[Extent]| leaf::encode(extents).expect("a good leaf");
    vec![leaf(&[]), leaf(&[stored.clone(), zeros.clone()]), leaf(&[patched.clone(), zeros, stored, patched])]
}

/// Whatever a leaf says, its extents' pieces are disjoint and inside.
fn read_leaf(bytes: &[u8]) {
    let Ok(extents) = leaf::decode(bytes) else { return };
    for extent in &extents {
        let mut end = 0;
        for piece in extent.pieces(Class::Extent) {
            assert!(u64::from(piece.at) >= end, "pieces overlap");
            end = u64::from(piece.at) + u64::from(piece.length);
            assert!(u64::from(piece.offset) + u64::from(piece.length) <= u64::from(piece.frame.plain));
        }
        assert!(end <= u64::from(extent.plain()), "a piece reaches beyond its extent");
    }
    assert_eq!(leaf::decode(&leaf::encode(&extents).expect("what was read can be written")).ok(), Some(extents));
}

fn tree() -> Vec<Vec<u8>> {
    let leaf = format!(
        "{{\"pack\":[\"{}\",0],\"offset\":128,\"stored\":412,\"plain\":1064,\"codec\":1,\"id\":\"{}\",\"first\":0,\"count\":1}}",
        "01".repeat(16),
        "03".repeat(32)
    );
    let common = "\"mode\":420,\"uid\":1,\"gid\":2,\"mtime\":1795179038000123";
    let lines = [
        format!("{{\"path\":\"a\",\"type\":\"dir\",{common}}}"),
        format!(
            "{{\"path\":\"a/b%FF\",\"type\":\"file\",{common},\"ns\":789,\"size\":9,\"extent\":131072,\"leaves\":[{leaf}]}}"
        ),
        format!(
            "{{\"path\":\"a/c\",\"type\":\"file\",{common},\"xattrs\":[[\"user.x\",\"%00\"]],\"size\":9,\"extent\":0,\"leaves\":[{leaf}],\"sparse\":true}}"
        ),
        format!("{{\"path\":\"a/d\",\"type\":\"hardlink\",{common},\"target\":\"a/c\"}}"),
        format!("{{\"path\":\"e\",\"type\":\"symlink\",{common},\"target\":\"../etc\"}}"),
        format!("{{\"path\":\"f\",\"type\":\"char\",{common},\"rdev\":[1,3]}}"),
    ];
    vec![lines.map(|line| line + "\n").concat().into_bytes()]
}

/// Whatever a tree says, its entries stay inside the target.
fn read_tree(bytes: &[u8]) {
    let Ok(entries) = TreeDecoder::default().frame(bytes) else { return };
    for entry in entries {
        let parts = entry.path.split(|byte| *byte == b'/');
        assert!(!entry.path.contains(&0) && parts.into_iter().all(|part| !matches!(part, b"" | b"." | b"..")));
    }
}

fn reference_lists() -> Vec<Vec<u8>> {
    let frames =
        [(KeyKind::Content, location(128)), (KeyKind::Content, location(4096)), (KeyKind::Structure, location(128))];
    let mut encoder = ReferenceEncoder::default();
    for pack in references::collect(frames) {
        assert!(encoder.push(&pack).expect("packs in order").is_none());
    }
    vec![encoder.finish().expect("a list")]
}

fn pack_key() -> PackKey {
    PackKey::new(Suite::Standard, KeyKind::Content, REPOSITORY, PACK, [5; 32], &key())
}

/// The whole of a small pack's footer and trailer.
fn sealed_footers() -> Vec<Vec<u8>> {
    let footer = Footer { origins: vec![pack_key().origin()], frames: Vec::new(), json: b"{}".to_vec() };
    let sealed = footer.seal(Suite::Standard, &key(), [6; 32], REPOSITORY, &NAME, 128).expect("a good footer");
    vec![sealed.bytes]
}

fn open_footer(bytes: &[u8]) {
    let Ok(trailer) = Trailer::decode(bytes, 128 + bytes.len() as u64) else { return };
    let sealed = bytes.get(..bytes.len() - TRAILER_LENGTH).unwrap_or_default();
    drop(Footer::open(Suite::Standard, &key(), REPOSITORY, &NAME, &trailer, sealed));
}

/// The plaintext of a footer with one origin and two frames.
fn footer_texts() -> Vec<Vec<u8>> {
    let mut text = 1_u32.to_le_bytes().to_vec();
    text.extend_from_slice(SESSION.as_bytes());
    text.extend_from_slice(&7_u32.to_le_bytes());
    text.extend_from_slice(&[1, 1, 0, 0]);
    text.extend_from_slice(&[5; 64]);
    text.extend_from_slice(&2_u32.to_le_bytes());
    for number in 0..2_u32 {
        text.extend_from_slice(&[number as u8; 32]);
        for field in [0, number, 128 + number * 64, 20, 30] {
            text.extend_from_slice(&field.to_le_bytes());
        }
        text.extend_from_slice(&[1, 1, 0, 0]);
    }
    text.extend_from_slice(&2_u32.to_le_bytes());
    text.extend_from_slice(b"{}");
    vec![text]
}

/// Seals a footer's plaintext as a holder of the structure key can, and opens it.
fn open_footer_text(text: &[u8]) {
    let (salt, mut body) = ([6; 32], text.to_vec());
    let footer_key = derive(&key(), "footer", &[&salt]);
    let aad = [REPOSITORY.as_bytes().as_slice(), NAME.to_string().as_bytes()].concat();
    Suite::Standard.seal(&footer_key, [0; 12], &aad, &mut body);
    let sealed = [salt.as_slice(), &commitment(&footer_key), &body].concat();
    let trailer = Trailer { offset: 1 << 20, length: sealed.len() as u32, crc: crc32c::crc32c(&sealed) };
    if let Ok(footer) = Footer::open(Suite::Standard, &key(), REPOSITORY, &NAME, &trailer, &sealed) {
        for frame in &footer.frames {
            assert!((frame.origin as usize) < footer.origins.len());
            assert!(u64::from(frame.offset) + u64::from(frame.stored) <= trailer.offset);
        }
        drop(MovedFrames::of_footer(&footer.json, footer.frames.len()));
    }
}

const PLAIN: &[u8] = b"a chunk that says the same again, a chunk that says the same again";

fn frame_location() -> FrameLocation {
    let stored = (PLAIN.len() + 16) as u32;
    let id = Suite::Standard.chunk_id(&key(), Class::Extent.byte(), PLAIN);
    FrameLocation { pack: PACK, offset: 128, stored, plain: PLAIN.len() as u32, codec: Codec::None, id }
}

fn frames() -> Vec<Vec<u8>> {
    let at = frame_location();
    let content = FrameContent { class: Class::Extent, codec: at.codec, plain: at.plain, id: at.id };
    vec![pack_key().seal_frame(0, &content, PLAIN).expect("a good frame")]
}

/// A frame opens to its own bytes or not at all.
fn open_frame(bytes: &[u8]) {
    if let Ok(plain) = pack_key().open_frame(Class::Extent, &frame_location(), bytes) {
        assert_eq!(plain, PLAIN);
    }
}

fn records() -> Vec<Vec<u8>> {
    let structure = key();
    let key = RecordKey { repository: REPOSITORY, structure: &structure };
    let (salt, name) = ([8; 32], ObjectName::Open(SOURCE, SESSION));
    vec![key.seal_json(Suite::Standard, RecordKind::Open, salt, &name, b"{\"session\":\"x\"}")]
}

fn open_record(bytes: &[u8]) {
    let structure = key();
    let key = RecordKey { repository: REPOSITORY, structure: &structure };
    if let Ok((kind, json)) = key.open_any(&ObjectName::Open(SOURCE, SESSION), bytes) {
        assert_eq!((kind, json.as_slice()), (RecordKind::Open, b"{\"session\":\"x\"}".as_slice()));
    }
}

/// The JSON of every kind of record, for each of which the same bytes are tried.
fn record_texts() -> Vec<Vec<u8>> {
    let (id, at) = ("01".repeat(16), 1_795_179_038_000_123_i64);
    let frame = format!(
        "{{\"pack\":[\"{id}\",0],\"offset\":128,\"stored\":412,\"plain\":1064,\"codec\":1,\"id\":\"{}\"}}",
        "03".repeat(32)
    );
    [
        format!(
            "{{\"snapshot\":\"{id}\",\"session\":\"{id}\",\"job\":\"{id}\",\"attempt\":1,\"source\":{{\"uid\":\"{id}\",\"name\":\"app\",\
             \"engine\":\"files\"}},\"domain\":\"default\",\"scheduled\":null,\"started\":{at},\"finished\":{at},\"consistent_at\":{at},\
             \"start\":{{\"branch\":1,\"offset\":5}},\"end\":null,\"tree\":[{frame}],\"references\":[{frame}],\"sessions\":[\"{id}\"],\
             \"bases\":[],\"totals\":{{\"files\":1}},\"warnings\":[],\"facts\":{{\"a\":[1,2]}}}}"
        ),
        format!("{{\"snapshot\":\"{id}\",\"session\":\"{id}\",\"reason\":\"late\",\"at\":{at}}}"),
        format!("{{\"session\":\"{id}\",\"snapshot\":\"{id}\",\"job\":\"{id}\",\"attempt\":1,\"bases\":[],\"adopts\":[\"{id}\"],\"started\":{at}}}"),
        format!("{{\"uid\":\"{id}\",\"name\":\"app\",\"engine\":\"files\",\"identity\":\"/srv\",\"domain\":\"default\",\"created\":{at}}}"),
        format!("{{\"pack\":[\"{id}\",0],\"kind\":\"content\",\"mover\":\"{id}\",\"to\":[[\"{id}\",1]],\"at\":{at}}}"),
        format!("{{\"snapshot\":\"{id}\",\"session\":\"{id}\",\"was\":\"committed\"}}"),
        format!("{{\"source\":\"{id}\",\"on\":\"{id}\"}}"),
        format!("{{\"generation\":3,\"session\":\"{id}\"}}"),
        format!("{{\"pack\":[\"{id}\",0],\"run\":\"{id}\",\"chunks\":[{{\"class\":1,\"id\":\"{}\"}}],\"at\":{at}}}", "03".repeat(32)),
        format!("{{\"snapshot\":\"{id}\",\"hold\":\"{id}\",\"reason\":\"case 17\",\"at\":{at}}}"),
        format!("{{\"body\":\"{{}}\",\"signature\":\"{}\"}}", "03".repeat(64)),
    ]
    .map(String::into_bytes)
    .to_vec()
}

fn read_record_texts(bytes: &[u8]) {
    const WHAT: &str = "record";
    drop(read_json::<Manifest>(WHAT, bytes));
    drop(read_json::<Fence>(WHAT, bytes));
    drop(read_json::<OpenRecord>(WHAT, bytes));
    drop(read_json::<SourceRecord>(WHAT, bytes));
    drop(read_json::<SessionKeys>(WHAT, bytes));
    drop(read_json::<Moved>(WHAT, bytes));
    drop(read_json::<Tombstone>(WHAT, bytes));
    drop(read_json::<log::StreamClaim>(WHAT, bytes));
    drop(read_json::<log::Over>(WHAT, bytes));
    drop(read_json::<Leaning>(WHAT, bytes));
    drop(read_json::<Losses>(WHAT, bytes));
    drop(read_json::<Lost>(WHAT, bytes));
    drop(read_json::<Hold>(WHAT, bytes));
    drop(read_json::<Vouched>(WHAT, bytes));
}

fn voucher() -> Voucher {
    Voucher::of_root(&key())
}

/// What a recipient vouches for, as text.
fn verified_texts() -> Vec<Vec<u8>> {
    let id = "01".repeat(16);
    let text = format!(
        "{{\"repository\":\"{REPOSITORY}\",\"domain\":\"default\",\"source\":\"{id}\",\"snapshot\":\"{id}\",\"session\":\"{id}\",\"run\":\"{id}\",\
         \"part\":0,\"at\":1795179038000123,\"regions\":[\"{id}\"],\"packs\":[[[\"{id}\",0],\"{}\"]]}}",
        "05".repeat(32)
    );
    vec![text.into_bytes()]
}

/// A text that a recipient has signed, whatever it says, is refused, or is what its name says and in order.
fn open_verified(bytes: &[u8]) {
    let Ok(body) = std::str::from_utf8(bytes) else { return };
    let signature: String =
        voucher().sign("verified-packs", body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let vouched = serde_json::json!({"body": body, "signature": signature}).to_string();
    let vouched: Vouched = read_json("vouched", vouched.as_bytes()).expect("this is its form");
    let Ok(said) = read_json::<VerifiedPacks>("packs", bytes) else {
        assert!(vouched.open(&voucher().public(), REPOSITORY, &NAME).is_err());
        return;
    };
    if let Ok(packs) = vouched.open(&voucher().public(), REPOSITORY, &said.name()) {
        assert!(packs.packs.is_sorted_by(|one, next| one.0 < next.0) && packs.repository == REPOSITORY);
        assert!(vouched.open(&voucher().public(), REPOSITORY, &NAME).is_err(), "it lies under its own name alone");
    }
}

fn segment_footers() -> Vec<Vec<u8>> {
    let (zeros, digest) = ("00".repeat(32), "05".repeat(32));
    vec![
        format!(
            "{{\"start\":{{\"branch\":1,\"offset\":0}},\"end\":{{\"branch\":1,\"offset\":9}},\"sha256\":\"{digest}\",\"previous\":\"{zeros}\",\
             \"chain\":\"{zeros}\",\"watermarks\":[[7,9]],\"first_commit\":7,\"last_commit\":7,\"commits\":1}}"
        )
        .into_bytes(),
    ]
}

fn names() -> Vec<Vec<u8>> {
    let (source, snapshot) = (SOURCE, SnapshotId::from_bytes([9; 16]));
    [
        ObjectName::Descriptor,
        ObjectName::Register(source, snapshot, SESSION),
        ObjectName::Tombstone(source, snapshot, SESSION),
        ObjectName::Moved { source, kind: KeyKind::Content, pack: PACK, mover: SESSION },
        ObjectName::Leaning(source, source),
        ObjectName::Losses(source),
        NAME,
    ]
    .map(|name| name.to_string().into_bytes())
    .to_vec()
}

/// Every codec's form of a text, the codec's byte before it.
fn compressed() -> Vec<Vec<u8>> {
    let plain = PLAIN.repeat(20);
    let compressed = |word: &str| {
        let compression: codec::Compression = word.parse().expect("a compression");
        let mut encoder = codec::Encoder::new(compression).expect("an encoder");
        let (codec, stored) = encoder.encode(&plain).expect("it can be compressed");
        [&[codec.byte()], stored].concat()
    };
    ["none", "zstd:3", "lz4", "gzip:6", "bzip2:1", "xz:1"].map(compressed).to_vec()
}

/// No decoder gives more than was asked for.
fn decompress(bytes: &[u8]) {
    let Some((byte, stored)) = bytes.split_first() else { return };
    let Ok(codec) = Codec::from_byte(byte % 6) else { return };
    let length = (PLAIN.len() * 20) as u32;
    if let Ok(plain) = codec.decode(stored.to_vec(), length) {
        assert_eq!(plain.len(), length as usize);
    }
}

targets! {
    object_names(names(), Bound::SMALL, |bytes| {
        if let Some(name) = ObjectName::parse(&text(bytes)) {
            assert_eq!(name.to_string(), text(bytes), "one name, one spelling");
        }
    });
    paths(vec![b"a/b%FFc".to_vec(), b"%2e%2e/x".to_vec()], Bound::SMALL, |bytes| {
        if let Ok(path) = path::unescape(&text(bytes)) {
            assert_eq!(path::unescape(&path::escape(&path)).ok(), Some(path));
        }
    });
    leaf_of_extents(leaves(), Bound { base: 512 << 10, per_byte: 64 }, |bytes| read_leaf(bytes));
    tree_of_entries(tree(), Bound::TREE, |bytes| read_tree(bytes));
    references_to_packs(reference_lists(), Bound::SMALL, |bytes| drop(ReferenceDecoder::default().frame(bytes)));
    pack_header(vec![pack_key().header().encode().to_vec()], Bound::SMALL, |bytes| drop(PackHeader::decode(bytes)));
    footer_from_outside(sealed_footers(), Bound::SMALL, |bytes| open_footer(bytes));
    footer_from_inside(footer_texts(), Bound::SMALL, |bytes| open_footer_text(bytes));
    frame_from_outside(frames(), Bound::SMALL, |bytes| open_frame(bytes));
    record_from_outside(records(), Bound::SMALL, |bytes| open_record(bytes));
    records_from_inside(record_texts(), Bound::TREE, |bytes| read_record_texts(bytes));
    packs_that_were_vouched_for(verified_texts(), Bound::TREE, |bytes| open_verified(bytes));
    segment_footer(segment_footers(), Bound::TREE, |bytes| drop(SegmentFooter::decode(bytes)));
    transaction_index(
        vec![b"{\"k\":\"c\",\"t\":7,\"x\":5,\"s\":1,\"e\":9}\n{\"k\":\"p\",\"t\":7,\"x\":0,\"s\":10,\"e\":19,\"n\":\"here\"}\n".to_vec()],
        Bound::TREE,
        |bytes| drop(log::decode_marks(bytes))
    );
    chunks_of_every_codec(compressed(), Bound { base: 24 << 20, per_byte: 64 }, |bytes| decompress(bytes));
    compressions(vec![b"zstd:3".to_vec(), b"xz:high".to_vec(), b"none".to_vec()], Bound::SMALL, |bytes| {
        if let Ok(compression) = text(bytes).parse::<codec::Compression>() {
            assert_eq!(compression.to_string().parse(), Ok(compression));
        }
    });
}
