export * from './gen/xenvif/v1/frame_service.js';
