//! The chat page, held in the binary: files and the headers they want. Knows no HTTP server.
//!
//! The page asks the server it came from and nobody else, which [`CONTENT_SECURITY_POLICY`] enforces.
//! It needs `/v1/chat/completions`, `/v1/models` and, for the chip's name, `/version`.

/// A file of the page.
#[derive(Debug)]
pub struct Asset {
    /// Where it is served; the page finds all of them relative to itself.
    pub path: &'static str,
    pub content_type: &'static str,
    pub bytes: &'static [u8],
}

/// Goes with every asset as `content-security-policy`: nothing from elsewhere, no script in the page's
/// text, nothing of it in another page's frame.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Everything there is; the page itself is the first.
pub static ASSETS: [Asset; 11] = [
    Asset {
        path: "/",
        content_type: "text/html; charset=utf-8",
        bytes: include_bytes!("page/index.html"),
    },
    Asset {
        path: "/page/style.css",
        content_type: "text/css; charset=utf-8",
        bytes: include_bytes!("page/style.css"),
    },
    Asset {
        path: "/page/icon.svg",
        content_type: "image/svg+xml",
        bytes: include_bytes!("page/icon.svg"),
    },
    script("/page/theme.js", include_bytes!("page/theme.js")),
    script("/page/app.js", include_bytes!("page/app.js")),
    script("/page/conversations.js", include_bytes!("page/conversations.js")),
    script("/page/markdown.js", include_bytes!("page/markdown.js")),
    script("/page/messages.js", include_bytes!("page/messages.js")),
    script("/page/settings.js", include_bytes!("page/settings.js")),
    script("/page/sidebar.js", include_bytes!("page/sidebar.js")),
    script("/page/stream.js", include_bytes!("page/stream.js")),
];

const fn script(path: &'static str, bytes: &'static [u8]) -> Asset {
    Asset { path, content_type: SCRIPT, bytes }
}

/// The asset at a path.
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}
