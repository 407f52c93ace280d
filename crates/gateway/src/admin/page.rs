//! The admin page, held in the binary: files, and the headers they want. Has no figure of its own: what it
//! shows it asks for at `/admin/api`, with the key that whoever looks at it has typed.

/// A file of the page.
#[derive(Debug)]
pub struct Asset {
    /// Where it is served; the page finds all of them relative to itself.
    pub path: &'static str,
    pub content_type: &'static str,
    pub bytes: &'static [u8],
}

/// Goes with every answer of the admin port as `content-security-policy`: nothing from elsewhere, no script
/// in the page's text, nothing of it in another page's frame.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Everything there is; the page itself is the first.
pub static ASSETS: [Asset; 10] = [
    Asset {
        path: "/admin",
        content_type: "text/html; charset=utf-8",
        bytes: include_bytes!("page/index.html"),
    },
    Asset {
        path: "/admin/page/style.css",
        content_type: "text/css; charset=utf-8",
        bytes: include_bytes!("page/style.css"),
    },
    Asset {
        path: "/admin/page/icon.svg",
        content_type: "image/svg+xml",
        bytes: include_bytes!("page/icon.svg"),
    },
    script("/admin/page/app.js", include_bytes!("page/app.js")),
    script("/admin/page/api.js", include_bytes!("page/api.js")),
    script("/admin/page/dom.js", include_bytes!("page/dom.js")),
    script("/admin/page/format.js", include_bytes!("page/format.js")),
    script("/admin/page/pools.js", include_bytes!("page/pools.js")),
    script("/admin/page/tables.js", include_bytes!("page/tables.js")),
    script("/admin/page/traffic.js", include_bytes!("page/traffic.js")),
];

const fn script(path: &'static str, bytes: &'static [u8]) -> Asset {
    Asset { path, content_type: "text/javascript; charset=utf-8", bytes }
}

/// The asset at a path.
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}
